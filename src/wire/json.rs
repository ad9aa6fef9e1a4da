//! How fields of the admin replies are written as JSON. build.rs puts these functions on the generated messages; the
//! rules are in the head of proto/admin.proto.

use serde::{Serialize, Serializer};

use crate::clock::utc;

/// A value of an enum by its name; null if it is unspecified.
pub fn name<E, S>(number: &i32, serializer: S) -> Result<S::Ok, S::Error>
where
    E: TryFrom<i32> + Serialize,
    S: Serializer,
{
    match E::try_from(*number) {
        _ if *number == 0 => serializer.serialize_none(),
        Ok(value) => value.serialize(serializer),
        // From a node of a later version.
        Err(_) => serializer.serialize_i32(*number),
    }
}

/// The same of a field that may not be present.
pub fn optional_name<E, S>(number: &Option<i32>, serializer: S) -> Result<S::Ok, S::Error>
where
    E: TryFrom<i32> + Serialize,
    S: Serializer,
{
    name::<E, S>(&number.unwrap_or(0), serializer)
}

/// A moment, in milliseconds since the Unix epoch, as RFC 3339 text.
pub fn moment<S: Serializer>(ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&utc(*ms))
}

/// The same of a field that may not be present.
pub fn optional_moment<S: Serializer>(ms: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match ms {
        Some(ms) => moment(ms, serializer),
        None => serializer.serialize_none(),
    }
}

/// The name of a value as JSON has it, for people; empty if it is unspecified.
#[must_use]
pub fn text<E: Serialize>(value: E) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) if name != "unspecified" => name,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::event::EventKind, wire::pb::admin};

    #[test]
    fn names_of_enums() {
        assert_eq!(text(admin::ReadFrom::PreferReplica), "prefer-replica");
        assert_eq!(text(admin::ReadFrom::Unspecified), "");
        let product = admin::Product { mode: admin::Mode::Cache.into(), layout: 77, ..admin::Product::default() };
        let json = serde_json::json!(product);
        assert_eq!((&json["mode"], &json["layout"], &json["isolated"]), (&"cache".into(), &77.into(), &().into()));
    }

    #[test]
    fn events_have_the_same_names_in_texts_and_in_json() {
        for (number, kind) in (1..).zip(EventKind::ALL) {
            let in_json = admin::EventKind::try_from(number).map(text);
            assert_eq!(in_json.as_deref(), Ok(kind.name()));
        }
    }

    #[test]
    fn moments_are_text_and_what_is_not_present_is_null() {
        let promotion = admin::Promotion { started_at_ms: 1_700_000_000_123, ..admin::Promotion::default() };
        let json = serde_json::json!(promotion);
        assert_eq!(json["started_at"], "2023-11-14T22:13:20.123Z");
        assert!(json["ended_at"].is_null() && json.get("started_at_ms").is_none());
    }
}
