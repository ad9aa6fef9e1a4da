//! The program `pontoon`. Everything is in the library; see `cli`.

use std::process::ExitCode;

/// glibc's allocator keeps what many threads have freed; a proxy that rests must be small.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pontoon::cli::run()
}
