#!/bin/sh
# Ends the container unless the api requires keys: this is the one port that is open to other machines.
[ "$API_KEYS" = required ] && exit 0
echo "nginx: The api would be open to everyone who reaches this machine; set API_KEYS=required (docs/operations/access.md)." >&2
exit 1
