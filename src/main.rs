//! The program `pontoon`. Everything is in the library; see `pontoon::cli`.

use std::process::ExitCode;

/// glibc's allocator keeps memory that many threads have freed; an idle proxy must be small.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pontoon::cli::run()
}
