//! Tests of creating, updating and deleting entries.
