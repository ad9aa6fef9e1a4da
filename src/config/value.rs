//! The text form of settings: the same in the file, the environment and on the command line.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use crate::model::ids::{HostPort, NodeId};

/// The kind of a setting in TOML. A file with another kind is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingKind {
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A string.
    Text,
    /// A string `K=V,K=V`, or a table.
    Map,
    /// A string `A,B`, or an array of strings.
    List,
}

/// A type that a setting can have.
pub trait SettingValue: Sized {
    /// How it is written in TOML.
    const KIND: SettingKind;
    /// Reads it from the text of a flag, a variable, or a TOML value without its quotes.
    ///
    /// # Errors
    /// Returns what is expected, as text for the operator.
    fn parse(text: &str) -> Result<Self, String>;
    /// As TOML; `None`: not set.
    fn toml(&self) -> Option<String>;
}

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl SettingValue for $type {
            const KIND: SettingKind = SettingKind::Integer;
            fn parse(text: &str) -> Result<Self, String> {
                text.replace('_', "").parse().map_err(|_| format!("a number from {} to {} is expected, not '{text}'", <$type>::MIN, <$type>::MAX))
            }
            fn toml(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}
integer!(u16, u32, u64, usize, i64);

impl SettingValue for bool {
    const KIND: SettingKind = SettingKind::Boolean;
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" | "1" | "yes" => Ok(true),
            "false" | "0" | "no" => Ok(false),
            _ => Err(format!("true or false is expected, not '{text}'")),
        }
    }
    fn toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Whole milliseconds. The keys of such settings end in `_ms`.
impl SettingValue for Duration {
    const KIND: SettingKind = SettingKind::Integer;
    fn parse(text: &str) -> Result<Self, String> {
        u32::parse(text).map(|ms| Duration::from_millis(u64::from(ms)))
    }
    fn toml(&self) -> Option<String> {
        Some(self.as_millis().to_string())
    }
}

impl SettingValue for IpAddr {
    const KIND: SettingKind = SettingKind::Text;
    fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        bare.parse()
            .map_err(|_| format!("an IP address is expected (0.0.0.0 means every one of this host), not '{text}'"))
    }
    fn toml(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

impl SettingValue for HostPort {
    const KIND: SettingKind = SettingKind::Text;
    fn parse(text: &str) -> Result<Self, String> {
        HostPort::parse(text)
    }
    fn toml(&self) -> Option<String> {
        Some(quoted(self.as_str()))
    }
}

impl SettingValue for PathBuf {
    const KIND: SettingKind = SettingKind::Text;
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a path is expected, not nothing".into()) } else { Ok(text.into()) }
    }
    fn toml(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
}

impl SettingValue for String {
    const KIND: SettingKind = SettingKind::Text;
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
    fn toml(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl SettingValue for NodeId {
    const KIND: SettingKind = SettingKind::Integer;
    fn parse(text: &str) -> Result<Self, String> {
        match u64::parse(text)? {
            0 => Err("ids of nodes begin at 1".into()),
            id => Ok(NodeId(id)),
        }
    }
    fn toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl<T: SettingValue> SettingValue for Option<T> {
    const KIND: SettingKind = T::KIND;
    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Some)
    }
    fn toml(&self) -> Option<String> {
        self.as_ref().and_then(SettingValue::toml)
    }
}

/// `1=HOST:PORT,2=HOST:PORT`, in any order.
impl SettingValue for BTreeMap<NodeId, HostPort> {
    const KIND: SettingKind = SettingKind::Map;
    fn parse(text: &str) -> Result<Self, String> {
        let mut map = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let Some((id, addr)) = part.split_once('=') else {
                return Err(format!("ID=HOST:PORT is expected, not '{part}'"));
            };
            let (id, addr) = (NodeId::parse(id.trim())?, HostPort::parse(addr.trim())?);
            if map.values().any(|known| *known == addr) {
                return Err(format!("{addr} is listed twice"));
            }
            if map.insert(id, addr).is_some() {
                return Err(format!("node {id} is listed twice"));
            }
        }
        Ok(map)
    }
    fn toml(&self) -> Option<String> {
        (!self.is_empty()).then(|| {
            let parts: Vec<_> = self.iter().map(|(id, addr)| format!("{id}={addr}")).collect();
            quoted(&parts.join(","))
        })
    }
}

/// `A,B`.
impl SettingValue for Vec<String> {
    const KIND: SettingKind = SettingKind::List;
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }
    fn toml(&self) -> Option<String> {
        (!self.is_empty()).then(|| quoted(&self.join(",")))
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn texts() {
        assert_eq!(usize::parse("50_000"), Ok(50_000));
        assert!(u16::parse("65536").unwrap_err().contains("65535"));
        assert_eq!(Duration::parse("250"), Ok(Duration::from_millis(250)));
        assert_eq!(bool::parse("yes"), Ok(true));
        assert!(bool::parse("maybe").is_err());
        assert!(IpAddr::parse("localhost").is_err());
        assert_eq!(IpAddr::parse("[::1]").unwrap().to_string(), "::1");
        assert!(NodeId::parse("0").is_err());
        assert_eq!(quoted("a\"b"), r#"'a"b'"#);
    }

    #[test]
    fn lists() {
        let list = Vec::<String>::parse("b, a,,").unwrap();
        assert_eq!((list.join("|").as_str(), list.toml().unwrap().as_str()), ("b|a", "\"b,a\""));
        assert_eq!(Vec::<String>::parse(" ").unwrap().toml(), None);
    }

    #[test]
    fn peers() {
        let map = BTreeMap::<NodeId, HostPort>::parse("2=b:2, 1=a:1").unwrap();
        assert_eq!(map.toml().unwrap(), "\"1=a:1,2=b:2\"");
        for bad in ["1", "x=a:1", "0=a:1", "1=a", "1=a:1,1=b:1", "1=a:1,2=a:1"] {
            assert!(BTreeMap::<NodeId, HostPort>::parse(bad).is_err(), "{bad}");
        }
    }
}
