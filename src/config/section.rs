//! Declares a section of the configuration once: type, key, default and the line that explains it.
//! Knows nothing of where values come from.

use super::value::SettingKind;

/// A setting as the sources see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name in its section.
    pub name: &'static str,
    /// How TOML writes it.
    pub kind: SettingKind,
    /// What it means, one line.
    pub help: &'static str,
    /// An example, shown while it is not set.
    pub example: &'static str,
}

/// A struct made by `section!`.
pub trait Section: Default {
    /// TOML table; empty: the top level.
    const NAME: &'static str;
    /// Its settings in the order of printing.
    const KEYS: &'static [Key];
    /// Sets one from its text.
    ///
    /// # Errors
    /// What is expected instead; also when there is no such key.
    fn set(&mut self, key: &str, text: &str) -> Result<(), String>;
    /// One as TOML; `None`: not set.
    fn toml(&self, key: &str) -> Option<String>;
}

/// `field "key": Type = default, "example";` with one doc line each, which is also the explanation that is printed.
macro_rules! section {
    ($(#[$meta:meta])* $struct:ident($name:literal) { $(#[doc = $help:literal] $field:ident $key:literal: $type:ty = $default:expr, $example:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $struct { $(#[doc = $help] pub $field: $type,)* }

        impl Default for $struct {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::section::Section for $struct {
            const NAME: &'static str = $name;
            const KEYS: &'static [$crate::config::section::Key] = &[$($crate::config::section::Key {
                name: $key,
                kind: <$type as $crate::config::value::SettingValue>::KIND,
                help: $help,
                example: $example,
            },)*];
            fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
                match key {
                    $($key => self.$field = $crate::config::value::SettingValue::parse(text)?,)*
                    _ => return Err("there is no such setting".into()),
                }
                Ok(())
            }
            fn toml(&self, key: &str) -> Option<String> {
                match key {
                    $($key => $crate::config::value::SettingValue::toml(&self.$field),)*
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use section;
