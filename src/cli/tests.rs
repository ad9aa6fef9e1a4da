//! The command line as clap understands it, and retries against a node that misbehaves.
