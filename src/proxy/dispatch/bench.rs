//! Dispatch alone, for benchmarks.

use super::{CallContext, Dispatch, Scratch, dispatch};
use crate::{
    model::route::ProductRoutes,
    proxy::{check::ServeCheck, client::Access},
    resp::request::Arg,
};

/// Runs [`dispatch`] alone, for benchmarks.
#[derive(Debug, Default)]
pub struct DispatchBench {
    scratch: Scratch,
}

impl DispatchBench {
    /// Whether the request `bytes` with the arguments `args` would be forwarded whole.
    pub fn forwards(&mut self, routes: &ProductRoutes, bytes: &[u8], args: &[Arg]) -> bool {
        let decision =
            dispatch(routes, ServeCheck::Open, Access::Open, &CallContext { bytes, args }, &mut self.scratch);
        matches!(decision, Dispatch::Forward(_))
    }
}
