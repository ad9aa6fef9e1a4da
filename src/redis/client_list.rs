//! The lines of CLIENT LIST.
//! Knows nothing of who a connection belongs to.

/// A connection, as CLIENT LIST shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientListEntry {
    /// Its id.
    pub id: u64,
    /// Its name; empty: none.
    pub name: String,
}

impl ClientListEntry {
    /// Parses the reply to CLIENT LIST. Every line has an id; one without it would be skipped.
    #[must_use]
    pub fn parse(text: &str) -> Vec<Self> {
        text.lines()
            .filter_map(|line| {
                let field = |name: &str| line.split(' ').find_map(|part| part.strip_prefix(name));
                Some(Self { id: field("id=")?.parse().ok()?, name: field("name=").unwrap_or_default().to_owned() })
            })
            .collect()
    }
}
