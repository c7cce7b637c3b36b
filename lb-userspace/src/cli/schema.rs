//! `--json-schema`: each command that has `--json` prints the JSON Schema of what that prints.
//!
//! The schema is made of the very types that are printed; their doc comments are its descriptions. A command has the flag
//! by two lines among its arguments, and nothing else to do: [`main`](super::command::main) prints the schema and ends, as
//! with `--help`, whatever else the command would need.
//!
//! ```text
//! /// Print the JSON Schema of what --json prints
//! #[arg(long, value_parser = schema::asked::<Status>)]
//! pub json_schema: bool,
//! ```

use schemars::{
    JsonSchema, Schema,
    generate::SchemaSettings,
    transform::{Transform, transform_subschemas},
};

/// Somebody has asked for a schema: this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a JSON Schema was asked for")]
pub struct Asked(pub String);

impl Asked {
    /// The schema that was asked for, if that is why a command line was not accepted.
    pub fn of(error: &clap::Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }
}

/// Parses the value of `--json-schema`, a flag.
///
/// # Errors
///
/// With [`Asked`] where the flag is there, to end the parsing at once: arguments that the command cannot do without are
/// not missed then.
pub fn asked<T: JsonSchema>(flag: &str) -> Result<bool, Asked> {
    if flag == "true" { Err(Asked(text::<T>())) } else { Ok(false) }
}

/// The schema of a type as it is written (draft 2020-12), with a line end after the last line.
pub fn text<T: JsonSchema>() -> String {
    let settings = SchemaSettings::draft2020_12().for_serialize().with_transform(PlainWords);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    // What is made of maps with text for keys can always be written.
    format!("{}\n", serde_json::to_string_pretty(&schema).unwrap_or_default())
}

/// Descriptions are read where rustdoc's links lead nowhere.
#[derive(Clone, Debug)]
struct PlainWords;

impl Transform for PlainWords {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(serde_json::Value::String(text)) = schema.get_mut("description") {
            let words = text.replace("[`", "`").replace("`]", "`");
            // Lines are broken for the source; paragraphs are meant.
            *text = words.split("\n\n").map(|part| part.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
        }
        transform_subschemas(self, schema);
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};
    use serde::Serialize;

    use super::*;

    /// What is printed.
    #[derive(Serialize, JsonSchema)]
    struct Answer {
        /// How many, as [`Answer`] has it.
        count: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    }

    #[derive(Debug, Parser)]
    struct Line {
        #[arg(long)]
        needed: u32,
        #[arg(long, value_parser = asked::<Answer>)]
        json_schema: bool,
    }

    #[test]
    fn a_flag_is_enough_to_get_the_schema() {
        Line::command().debug_assert();
        let error = Line::try_parse_from(["xvip", "--json-schema"]).expect_err("the schema");
        let Asked(text) = Asked::of(&error).expect("asked for");
        let schema: serde_json::Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(schema["title"], "Answer");
        assert_eq!(schema["description"], "What is printed.");
        assert_eq!(schema["properties"]["count"]["description"], "How many, as `Answer` has it.");
        assert_eq!(schema["required"], serde_json::json!(["count"]));
    }

    #[test]
    fn without_the_flag_nothing_changes() {
        let line = Line::try_parse_from(["xvip", "--needed", "3"]).expect("accepted");
        assert!(!line.json_schema && line.needed == 3);
        let error = Line::try_parse_from(["xvip"]).expect_err("refused");
        assert_eq!(Asked::of(&error), None);
    }
}
