//! The server's entities and where they are kept: traits, in-memory and sled adapters.
