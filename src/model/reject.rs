//! Why a change did nothing, with the evidence. Rendered for people in one place: `Display`.

/// A refusal. The state is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// There are members already.
    #[error("the cluster exists already")]
    AlreadyBootstrapped,
}
