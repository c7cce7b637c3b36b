//! Whether a JSON text is what its published schema says, and has nothing that the schema does not speak of.

use serde_json::Value;

/// Whether a value is as a schema (draft 2020-12) says. A published schema lets fields in that it does not know, since fields
/// are added; here none may be unknown, or the schema would not be the whole truth.
///
/// # Errors
/// Each disagreement, with its place; or the schema is none.
pub fn validate(schema: &str, value: &Value) -> Result<(), String> {
    let mut schema: Value =
        serde_json::from_str(schema).map_err(|error| format!("the schema is no JSON: {error}"))?;
    refuse_unknown(&mut schema);
    let validator =
        jsonschema::draft202012::new(&schema).map_err(|error| format!("the schema is none: {error}"))?;
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
}

/// Where a schema has alternatives.
const ALTERNATIVES: [&str; 3] = ["oneOf", "anyOf", "allOf"];

/// No object may have a property that is not spoken of, by whichever part of its schema.
fn refuse_unknown(schema: &mut Value) {
    match schema {
        Value::Object(parts) => {
            let has_properties = parts.get("properties").is_some_and(Value::is_object);
            let has_alternatives = ALTERNATIVES.iter().any(|word| parts.contains_key(*word));
            for (word, part) in parts.iter_mut() {
                refuse_unknown(part);
                // Its alternatives speak of the same object: only all of them together know every property.
                if has_properties && ALTERNATIVES.contains(&word.as_str()) {
                    let alternatives =
                        part.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut);
                    alternatives.for_each(|one| drop(one.remove("additionalProperties")));
                }
            }
            if has_properties {
                let word = if has_alternatives { "unevaluatedProperties" } else { "additionalProperties" };
                parts.entry(word).or_insert(Value::Bool(false));
            }
        }
        Value::Array(parts) => parts.iter_mut().for_each(refuse_unknown),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SCHEMA: &str = r##"{
        "type": "object", "properties": { "count": { "type": "integer" } }, "required": ["count"],
        "oneOf": [
            { "type": "object", "properties": { "kind": { "const": "a" } }, "required": ["kind"] },
            { "type": "object", "properties": { "kind": { "const": "b" }, "more": { "$ref": "#/$defs/More" } } }
        ],
        "$defs": { "More": { "type": "object", "properties": { "x": { "type": "string" } } } }
    }"##;

    #[test]
    fn what_a_schema_says_is_held_against_a_value() {
        for good in [json!({"count": 1, "kind": "a"}), json!({"count": 1, "kind": "b", "more": {"x": "y"}})] {
            assert_eq!(validate(SCHEMA, &good), Ok(()));
        }
        for bad in [
            json!({"kind": "a"}),
            json!({"count": "1", "kind": "a"}),
            json!({"count": 1, "kind": "c"}),
            json!({"count": 1, "kind": "a", "unknown": 1}),
            json!({"count": 1, "kind": "b", "more": {"x": "y", "unknown": 1}}),
        ] {
            assert!(validate(SCHEMA, &bad).is_err(), "{bad}");
        }
    }
}
