//! semel-tests
