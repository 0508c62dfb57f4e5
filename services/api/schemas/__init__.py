"""Requests and responses of the native API. Field names are a contract with every client."""
