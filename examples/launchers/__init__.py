"""One script, started by any launcher, and the configuration files of these."""
