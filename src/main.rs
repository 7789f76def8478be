//! The `yeta-gateway` binary.

fn main() {}
