//! Declares a section of the configuration: for each setting its type, key, default and explanation.

use super::value::SettingKind;

/// What the sources need to know of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name in its section.
    pub name: &'static str,
    /// Its kind in TOML.
    pub kind: SettingKind,
    /// Its meaning, in one line.
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
    /// Sets one setting from its text.
    ///
    /// # Errors
    /// Returns what is expected, as text for the operator, if the value is not valid or there is no such key.
    fn set(&mut self, key: &str, text: &str) -> Result<(), String>;
    /// One setting as TOML; `None`: not set.
    fn toml(&self, key: &str) -> Option<String>;
}

/// `field "key": Type = default, "example";`, each with one doc line, which is also the printed explanation.
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
