"""The processes of the service, one package each. They never import each other."""
