#!/bin/sh
# Makes the role and the database of the service, or gives the role the password that it has now.
#
# The server's image runs this once, on an empty data folder. Rotating the password runs it again.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username postgres --dbname postgres <<'SQL'
\set password `cat /run/credentials/trim_password`
SELECT 'CREATE ROLE trim LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'trim')
\gexec
ALTER ROLE trim NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
SELECT $$CREATE DATABASE trim OWNER trim ENCODING 'UTF8' TEMPLATE template0$$
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'trim')
\gexec
SQL
