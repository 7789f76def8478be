//! Integration tests, in one binary: over real sockets, each on its own ports.

mod sandbox;
