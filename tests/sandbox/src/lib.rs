//! semel-sandbox
