//! YAML as JSON's values, so that both are read by the same code.

use anyhow::{Result, anyhow};
use serde_json::{Map, Value};
use yaml_rust2::{Yaml, YamlLoader};

/// The first document of a text; null where there is none.
///
/// # Errors
/// `line L, column C: what is wrong`.
pub(super) fn parse(text: &str) -> Result<Value> {
    let documents = YamlLoader::load_from_str(text).map_err(|error| {
        let marker = error.marker();
        anyhow!("line {}, column {}: {}", marker.line(), marker.col() + 1, error.info())
    })?;
    Ok(documents.first().map_or(Value::Null, value))
}

fn value(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::String(text) => Value::from(text.as_str()),
        Yaml::Integer(number) => Value::from(*number),
        Yaml::Boolean(truth) => Value::from(*truth),
        Yaml::Real(text) => {
            text.parse::<f64>().map_or_else(|_| Value::from(text.as_str()), Value::from)
        }
        Yaml::Array(list) => list.iter().map(value).collect(),
        Yaml::Hash(map) => {
            let key = |key: &Yaml| match value(key) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Value::Object(map.iter().map(|(k, v)| (key(k), value(v))).collect::<Map<_, _>>())
        }
        Yaml::Alias(_) | Yaml::Null | Yaml::BadValue => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn values_are_json_s() {
        let text = "a: 1\nb: [x, 'y z']\nc: true # no\nd: \"2\"\ne:\n  - f: 0644\n";
        let expected =
            serde_json::json!({"a": 1, "b": ["x", "y z"], "c": true, "d": "2", "e": [{"f": 644}]});
        assert_eq!(parse(text).unwrap(), expected);
        assert!(parse("a: [1").unwrap_err().to_string().starts_with("line "));
        assert_eq!(parse("").unwrap(), serde_json::Value::Null);
    }
}
