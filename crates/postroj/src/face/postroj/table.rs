//! Columns of text, and lists that are also printed in other ways.

use anyhow::Result;

// In what form a list is printed. (A doc comment would become the help text of each verb that has it.)
#[derive(Debug, clap::Args)]
pub(super) struct Listing {
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Listing {
    /// Prints it, of each what these functions say of it.
    ///
    /// # Errors
    /// Where it cannot be put into JSON.
    pub(super) fn print<T, const COLUMNS: usize>(
        &self,
        all: &[T],
        name: impl Fn(&T) -> &str,
        json: impl Fn(&T) -> serde_json::Value,
        heading: [&str; COLUMNS],
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<()> {
        if self.json {
            let list: Vec<serde_json::Value> = all.iter().map(json).collect();
            println!("{}", serde_json::to_string_pretty(&list)?);
        } else if self.quiet {
            all.iter().for_each(|one| println!("{}", name(one)));
        } else {
            let mut rows = vec![heading.map(String::from).to_vec()];
            rows.extend(all.iter().map(row));
            print!("{}", render(&rows));
        }
        Ok(())
    }
}

/// Lines with their columns aligned; the first row is the heading.
pub(super) fn render(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("   ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_blanks() {
        let rows = [vec!["NAME".to_owned(), "ID".into()], vec!["ä".into(), "1".into()]];
        assert_eq!(super::render(&rows), "NAME   ID\nä      1\n");
    }
}
