#!/bin/sh
# Makes the role and the database of the service, or gives the role its present password.
#
# The server's image runs this once, on an empty data folder. To rotate the password, run it again.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username postgres --dbname postgres \
    --set password="$(cat /run/credentials/trim_password)" <<'SQL'
SELECT 'CREATE ROLE trim LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'trim')
\gexec
ALTER ROLE trim NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
SELECT 'CREATE DATABASE trim OWNER trim' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'trim')
\gexec
SQL
