//! What must be run inside an image to finish it. Sources return recipes;
//! only the harness runs them.

use serde::{Deserialize, Serialize};

/// Commands to be run, in order, in an unpacked root before it becomes a layer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Recipe {
    /// Each runs to its end as id 0 with the whole id range; the first that fails ends the bake.
    pub steps: Vec<Step>,
}

/// One command of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What the user is told, such as `configuring packages`.
    pub title: String,
    /// The command, looked up in the root's PATH.
    pub args: Vec<String>,
    /// Added to a minimal environment (`PATH`, `HOME`, `LANG=C.UTF-8`).
    pub env: Vec<(String, String)>,
}
