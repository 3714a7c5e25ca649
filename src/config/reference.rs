//! The configuration reference, written from the types and their comments.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::Config;

const HEAD: &str = "# Configuration\n\n\
    Written by `berth config reference`; do not edit.\n\n\
    `berth serve --config FILE` reads a TOML file. Each setting can also be given as an environment\n\
    variable: `gc.min_age` is `BERTH_GC__MIN_AGE`. Flags win over variables, variables over the file.\n\
    Sizes are written `256MiB` or as a number of bytes, spans of time `90s`, `15m`, `24h`, `7d`.\n";

/// The reference as Markdown.
pub fn reference() -> String {
    let schema = schemars::schema_for!(Config).to_value();
    let mut text = HEAD.to_owned();
    let whole = schema.clone();
    section(&mut text, &schema, &whole, "");
    text
}

/// The plain settings of a section, then the sections in it.
fn section(text: &mut String, schema: &Value, of: &Value, prefix: &str) {
    let (sections, plain): (Vec<_>, Vec<_>) = properties(of)
        .into_iter()
        .map(|(name, property)| (name, resolve(schema, &property)))
        .partition(|(_, property)| is_section(schema, property));
    table(text, schema, prefix, &plain);
    for (name, inner) in sections {
        let list = inner.get("items").map(|items| resolve(schema, items));
        let path = format!("{prefix}{name}");
        let heading = if list.is_some() { format!("[[{path}]]") } else { format!("[{path}]") };
        let about = inner.get("description").and_then(Value::as_str).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(text, "\n## `{heading}`\n\n{}\n", one_line(about));
        section(text, schema, list.as_ref().unwrap_or(&inner), &format!("{path}."));
    }
}

/// Whether something has settings of its own, or is a list of such things.
fn is_section(schema: &Value, property: &Value) -> bool {
    let has_settings = |property: &Value| property.get("properties").is_some();
    let items = property.get("items").map(|items| resolve(schema, items));
    has_settings(property) || items.is_some_and(|items| has_settings(&items))
}

fn table(text: &mut String, schema: &Value, prefix: &str, fields: &[(String, Value)]) {
    if fields.is_empty() {
        return;
    }
    text.push_str("\n| setting | default | meaning |\n|---|---|---|\n");
    for (name, property) in fields {
        let about = property.get("description").and_then(Value::as_str).unwrap_or_default();
        let default = default_of(schema, prefix, name, property);
        let _ = writeln!(text, "| `{prefix}{name}` | {default} | {} |", one_line(about));
    }
}

fn default_of(schema: &Value, prefix: &str, name: &str, property: &Value) -> String {
    let in_section = || {
        let mut path = prefix.split_terminator('.');
        let section = schema.get("properties")?.get(path.next()?)?.get("default")?;
        path.try_fold(section, |section, name| section.get(name))?.get(name).cloned()
    };
    match property.get("default").cloned().or_else(in_section) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => format!("`\"{text}\"`"),
        Some(value) => format!("`{value}`"),
    }
}

fn properties(schema: &Value) -> Vec<(String, Value)> {
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    properties.iter().map(|(name, property)| (name.clone(), property.clone())).collect()
}

/// Follows a `$ref`, keeping what stands beside it.
fn resolve(schema: &Value, property: &Value) -> Value {
    let name = property.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
    let Some(target) = name.and_then(|path| schema.pointer(path)) else { return property.clone() };
    let mut merged = target.as_object().cloned().unwrap_or_default();
    merged.extend(property.as_object().cloned().unwrap_or_default());
    merged.into()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
