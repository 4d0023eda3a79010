//! The integration suites live in `tests/`, beside this file; nothing is exported here.
