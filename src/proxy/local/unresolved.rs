//! The error for a call that resolves to no command, with Redis' wording: client libraries and test suites compare it.
//! Knows nothing of sessions.

use super::QUOTED_MAX;
use crate::{
    commands::{Args, Handling, ResolveError, TransactionCommand},
    proxy::dispatch::CallContext,
};

/// The error. It repeats the client's own bytes, as Redis does: up to the first NUL. (Redis, `commandCheckExistence`.)
pub(in crate::proxy) fn unresolved(error: &ResolveError, call: &CallContext<'_>) -> Vec<u8> {
    let quoted = |at: usize, max: usize| {
        let arg = call.get(at);
        let end = arg.iter().position(|c| *c == 0).unwrap_or(arg.len());
        &arg[..end.min(max)]
    };
    match error {
        ResolveError::Unknown => {
            let mut args = Vec::new();
            for at in 1..call.args.len() {
                let Some(left) = QUOTED_MAX.checked_sub(args.len()).filter(|left| *left > 0) else { break };
                args.extend([b"'", quoted(at, left), b"' "].concat());
            }
            [b"ERR unknown command '", quoted(0, QUOTED_MAX), b"', with args beginning with: ", &args].concat()
        }
        ResolveError::UnknownSubcommand(spec) => {
            let sub = if call.args.len() > 1 { quoted(1, QUOTED_MAX) } else { b"" };
            let name = spec.name.to_ascii_uppercase();
            [b"ERR unknown subcommand '", sub, b"'. Try ", name.as_bytes(), b" HELP."].concat()
        }
        // Also without MULTI. (Redis, `rejectCommand`.)
        ResolveError::WrongArity(spec) if spec.handling == Handling::Transaction(TransactionCommand::Exec) => {
            format!("EXECABORT Transaction discarded because of: {error}").into_bytes()
        }
        ResolveError::WrongArity(_) => format!("ERR {error}").into_bytes(),
    }
}
