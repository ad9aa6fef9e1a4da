//! What JSON of the command line may contain: the replies of proto/admin.proto with their comments, and the few objects that
//! the command line makes itself. The rules are those of build.rs and src/wire/json.rs; the golden files show that they hold.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use serde_json::Value;

use crate::wire::pb;

/// The package of the replies.
const ADMIN: &str = "pontoon.admin.v1";
/// Message and field whose own fields are on the level of the message.
const FLATTENED: (&str, &str) = ("ShowGroupReply", "group");
/// Message and field that JSON does not have.
const LEFT_OUT: (&str, &str) = ("Product", "listeners");

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number without a fraction, from 0, with its unit.
    Integer(Option<&'static str>),
    /// Any text.
    Text,
    /// true or false.
    Boolean,
    /// RFC 3339.
    Moment,
    /// One of these names.
    Names(String),
    /// An object of this name.
    Object(String),
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in JSON.
    pub name: String,
    /// What its value is, or the elements of its value.
    pub kind: Kind,
    /// The value is an array.
    pub repeated: bool,
    /// The value may be null.
    pub nullable: bool,
    /// What it means, and when it is null.
    pub text: String,
}

/// An object.
#[derive(Clone, Debug)]
pub struct Object {
    /// What it is.
    pub text: String,
    /// In the order of the declaration.
    pub fields: Vec<Field>,
    /// It has the fields of this object, too.
    pub with: Option<String>,
}

/// Names that a value may have.
#[derive(Clone, Debug)]
pub struct Names {
    /// What they are about.
    pub text: String,
    /// Each with its meaning.
    pub values: Vec<(String, String)>,
}

/// All objects, and all names.
#[derive(Debug, Default)]
pub struct Schema {
    /// By name.
    pub objects: BTreeMap<String, Object>,
    /// By name.
    pub names: BTreeMap<String, Names>,
}

/// The comments of a file, by the path of what they belong to.
struct Comments(BTreeMap<Vec<i32>, String>);

impl Comments {
    fn of(file: &FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self(locations.map(|at| (at.path.clone(), one_line(at.leading_comments()))).collect())
    }

    fn at(&self, path: &[usize]) -> String {
        let path: Vec<i32> = path.iter().map(|n| i32::try_from(*n).unwrap()).collect();
        self.0.get(&path).cloned().unwrap_or_default()
    }
}

// Numbers of the fields of FileDescriptorProto, DescriptorProto and EnumDescriptorProto.
const MESSAGES: usize = 4;
const ENUMS: usize = 5;
const FIELDS: usize = 2;
const VALUES: usize = 2;

impl Schema {
    /// All that commands print.
    pub fn new() -> Self {
        let set = FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap();
        let file = set.file.iter().find(|file| file.package() == ADMIN).unwrap();
        let comments = Comments::of(file);
        let mut schema = Self::default();
        let replies = file.service.iter().flat_map(|service| &service.method).map(|method| method.output_type());
        let mut left: Vec<&str> = replies.collect();
        while let Some(full) = left.pop() {
            let name = short(full);
            let message = file.message_type.iter().position(|m| m.name() == name);
            let names = file.enum_type.iter().position(|e| e.name() == name);
            if let Some(at) = message.filter(|_| !schema.objects.contains_key(&name)) {
                let message = &file.message_type[at];
                left.extend(message.field.iter().map(|field| field.type_name()));
                schema.objects.insert(name, object(message, file, &comments, at));
            } else if let Some(at) = names {
                schema.names.insert(name, names_of(&file.enum_type[at], &comments, at));
            }
        }
        schema.add_own();
        // What only replies contain that no command prints as they are.
        let printed: BTreeSet<String> =
            schema.objects.values().flat_map(|o| o.fields.iter()).filter_map(|f| f.kind.object()).collect();
        let with: BTreeSet<String> = schema.objects.values().filter_map(|o| o.with.clone()).collect();
        let roots: BTreeSet<&str> = super::json_doc::roots().collect();
        schema.objects.retain(|name, _| printed.contains(name) || with.contains(name) || roots.contains(name.as_str()));
        schema
    }

    /// Objects that the command line makes itself.
    fn add_own(&mut self) {
        use Kind::{Integer, Object as Of, Text};
        let mut add = |name: &str, text: &str, with: Option<&str>, fields: &[(&str, Kind, bool, bool, &str)]| {
            let field = |(name, kind, repeated, nullable, text): &(&str, Kind, bool, bool, &str)| Field {
                name: (*name).into(),
                kind: kind.clone(),
                repeated: *repeated,
                nullable: *nullable,
                text: (*text).into(),
            };
            let fields = fields.iter().map(field).collect();
            self.objects.insert(name.into(), Object { text: text.into(), fields, with: with.map(str::to_owned) });
        };
        let dry_run = "The change was only tried: the other fields say what would be done.";
        add(
            "Change",
            "What a change did, or would do. With `--wait` it is printed when the change is made, and the exit code says what \
             came of the waiting.",
            Some("ChangeReply"),
            &[("dry_run", Kind::Boolean, false, false, dry_run)],
        );
        let product = "Name of its product.";
        add(
            "ListedServer",
            "A server, its group and its product.",
            Some("Server"),
            &[
                ("product", Text, false, false, product),
                ("group", Integer(None), false, false, "Id of its group in that product, from 1."),
            ],
        );
        add(
            "LocatedKey",
            "Where a key belongs.",
            Some("LocateKeyReply"),
            &[("key", Text, false, false, "The key that was asked for.")],
        );
        add(
            "Maintenance",
            "Where maintenance is on.",
            None,
            &[
                ("cluster", Kind::Boolean, false, false, "It is on in all groups of all products."),
                (
                    "groups",
                    Of("GroupName".into()),
                    true,
                    false,
                    "The groups in which it is on by a setting of their own, ascending by product and id.",
                ),
            ],
        );
        add(
            "GroupName",
            "A group and its product.",
            None,
            &[
                ("product", Text, false, false, product),
                ("group", Integer(None), false, false, "Its id in that product, from 1."),
            ],
        );
        add(
            "Versions",
            "The versions of this program and of the nodes.",
            None,
            &[
                ("version", Text, false, false, "Of this program."),
                (
                    "nodes",
                    Of("NodeVersion".into()),
                    true,
                    false,
                    "Of the nodes, ascending by id; empty if no node was reached.",
                ),
                (
                    "nodes_missing_because",
                    Text,
                    false,
                    true,
                    "Why the versions of the nodes are missing. Not present: they are there.",
                ),
            ],
        );
        add(
            "NodeVersion",
            "The version of a node's program.",
            None,
            &[
                ("id", Integer(None), false, false, "Id of the node, from 1."),
                (
                    "version",
                    Text,
                    false,
                    false,
                    "As the node last told the leader; empty: the leader has had no heartbeat from it in its term.",
                ),
            ],
        );
        add(
            "Error",
            "An error, on standard error.",
            None,
            &[("error", Of("ErrorBody".into()), false, false, "The error.")],
        );
        add(
            "ErrorBody",
            "What went wrong.",
            None,
            &[
                ("code", Text, false, false, "One of the codes below."),
                ("exit_code", Integer(None), false, false, "The exit code of the process, 1 to 5."),
                (
                    "message",
                    Text,
                    false,
                    false,
                    "What happened, to what, and what to do now, for people. It may change.",
                ),
            ],
        );
    }

    /// Whether a value is an object of this name. Adds what it has, as (object, field), to `seen`.
    ///
    /// # Errors
    /// Where it differs.
    pub fn check(&self, value: &Value, name: &str, at: &str, seen: &mut Seen) -> Result<(), String> {
        let Value::Object(map) = value else { return Err(format!("{at} is no object: {value}")) };
        let mut known = BTreeSet::new();
        let mut part = Some(name);
        while let Some(name) = part {
            let object = self.objects.get(name).ok_or_else(|| format!("there is no object {name}"))?;
            for field in &object.fields {
                let at = format!("{at}.{}", field.name);
                let value = map.get(&field.name).ok_or_else(|| format!("{at} is missing, a field of {name}"))?;
                if self.check_field(value, field, &at, seen)? {
                    seen.insert((name.to_owned(), field.name.clone()));
                }
                known.insert(field.name.as_str());
            }
            part = object.with.as_deref();
        }
        match map.keys().find(|key| !known.contains(key.as_str())) {
            Some(key) => Err(format!("{at}.{key} is no field of {name}")),
            None => Ok(()),
        }
    }

    /// Whether there is a value.
    fn check_field(&self, value: &Value, field: &Field, at: &str, seen: &mut Seen) -> Result<bool, String> {
        if value.is_null() {
            return if field.nullable { Ok(false) } else { Err(format!("{at} is null")) };
        }
        if !field.repeated {
            return self.check_kind(value, &field.kind, at, seen).map(|()| true);
        }
        let Value::Array(items) = value else { return Err(format!("{at} is no array: {value}")) };
        items.iter().try_for_each(|item| self.check_kind(item, &field.kind, at, seen))?;
        Ok(!items.is_empty())
    }

    fn check_kind(&self, value: &Value, kind: &Kind, at: &str, seen: &mut Seen) -> Result<(), String> {
        let is = match kind {
            Kind::Integer(_) => value.is_u64(),
            Kind::Text => value.is_string(),
            Kind::Boolean => value.is_boolean(),
            Kind::Moment => value.as_str().is_some_and(|text| humantime::parse_rfc3339(text).is_ok()),
            Kind::Names(names) => {
                value.as_str().is_some_and(|text| self.names[names].values.iter().any(|v| v.0 == text))
            }
            Kind::Object(name) => return self.check(value, name, at, seen),
        };
        if is { Ok(()) } else { Err(format!("{at} is no {kind:?}: {value}")) }
    }
}

/// Fields that had a value, as (object, field).
pub type Seen = BTreeSet<(String, String)>;

impl Kind {
    fn object(&self) -> Option<String> {
        if let Self::Object(name) = self { Some(name.clone()) } else { None }
    }
}

/// `.pontoon.admin.v1.Node` without the package.
fn short(full: &str) -> String {
    full.rsplit('.').next().unwrap_or_default().to_owned()
}

fn object(message: &DescriptorProto, file: &FileDescriptorProto, comments: &Comments, at: usize) -> Object {
    let of = |field: &FieldDescriptorProto, (name, left): (&str, &str)| message.name() == name && field.name() == left;
    let shown = message.field.iter().enumerate().filter(|(_, f)| !of(f, LEFT_OUT) && !of(f, FLATTENED));
    let field = |(n, f): (usize, &FieldDescriptorProto)| Field {
        name: if is_moment(f) { f.name().trim_end_matches("_ms").to_owned() } else { f.name().to_owned() },
        kind: kind(f, file),
        repeated: f.label() == Label::Repeated,
        nullable: f.proto3_optional(),
        text: comments.at(&[MESSAGES, at, FIELDS, n]),
    };
    let with = message.field.iter().find(|f| of(f, FLATTENED)).map(|f| short(f.type_name()));
    Object { text: comments.at(&[MESSAGES, at]), fields: shown.map(field).collect(), with }
}

fn is_moment(field: &FieldDescriptorProto) -> bool {
    field.name() == "at_ms" || field.name().ends_with("_at_ms")
}

fn kind(field: &FieldDescriptorProto, file: &FileDescriptorProto) -> Kind {
    const UNITS: [(&str, &str); 4] = [("_ms", "ms"), ("_us", "µs"), ("_bytes", "bytes"), ("_percent", "percent")];
    let name = short(field.type_name());
    match field.r#type() {
        _ if is_moment(field) => Kind::Moment,
        Type::Uint32 | Type::Uint64 => {
            Kind::Integer(UNITS.iter().find(|(end, _)| field.name().ends_with(end)).map(|(_, unit)| *unit))
        }
        Type::String => Kind::Text,
        Type::Bool => Kind::Boolean,
        Type::Enum => Kind::Names(name),
        Type::Message => Kind::Object(name),
        other => panic!("{}: src/wire/json.rs has no rule for {other:?} in {}", field.name(), file.name()),
    }
}

fn names_of(names: &EnumDescriptorProto, comments: &Comments, at: usize) -> Names {
    let upper = |c: char| if c.is_uppercase() { format!("_{c}") } else { c.to_uppercase().to_string() };
    let prefix = names.name().chars().map(upper).collect::<String>().trim_start_matches('_').to_owned() + "_";
    let value = |n: usize, name: &str| {
        let short = name.strip_prefix(&prefix).unwrap().to_lowercase().replace('_', "-");
        (short, comments.at(&[ENUMS, at, VALUES, n]))
    };
    let values = names.value.iter().enumerate().filter(|(_, v)| v.number() != 0).map(|(n, v)| value(n, v.name()));
    Names { text: comments.at(&[ENUMS, at]), values: values.collect() }
}
