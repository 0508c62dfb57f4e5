#!/bin/sh
# Makes the users and the database of the service, or gives the users the passwords that they have now.
#
# The server's image runs this once, on an empty data folder. Rotating a password runs it again.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username postgres --dbname postgres <<'SQL'
\set owner `cat /run/credentials/migrate_password`
\set api `cat /run/credentials/api_password`
\set orchestrator `cat /run/credentials/orchestrator_password`
SELECT format('CREATE ROLE %I LOGIN', wanted)
FROM unnest(ARRAY['trim', 'trim_api', 'trim_orchestrator']) AS wanted
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted)
\gexec
ALTER ROLE trim NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'owner';
ALTER ROLE trim_api NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'api';
ALTER ROLE trim_orchestrator NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'orchestrator';
-- /health/ready names the sessions of other users that hold locks.
GRANT pg_read_all_stats TO trim_api;
SELECT $$CREATE DATABASE trim OWNER trim ENCODING 'UTF8' TEMPLATE template0$$
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'trim')
\gexec
SQL
