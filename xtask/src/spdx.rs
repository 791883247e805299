//! SPDX licence expressions (SPDX specification 2.3, annex D).

use anyhow::{Result, bail};

/// Whether somebody who accepts only what `allowed` says may use what is under `expression`.
/// A licence with an exception is asked for as a whole, such as `Apache-2.0 WITH LLVM-exception`.
///
/// # Errors
/// Where it is no expression.
pub(crate) fn satisfied(expression: &str, allowed: &dyn Fn(&str) -> bool) -> Result<bool> {
    // Crates from before 2016 separate alternatives with a slash.
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, allowed };
    let result = parser.alternatives()?;
    match parser.words {
        [] => Ok(result),
        [word, ..] => bail!("{word:?} is not expected in {expression:?}"),
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    allowed: &'a dyn Fn(&str) -> bool,
}

impl<'a> Parser<'a> {
    fn alternatives(&mut self) -> Result<bool> {
        let mut any = self.conjunction()?;
        while self.accept("OR") {
            any |= self.conjunction()?;
        }
        Ok(any)
    }

    fn conjunction(&mut self) -> Result<bool> {
        let mut all = self.licence()?;
        while self.accept("AND") {
            all &= self.licence()?;
        }
        Ok(all)
    }

    fn licence(&mut self) -> Result<bool> {
        if self.accept("(") {
            let inner = self.alternatives()?;
            if !self.accept(")") {
                bail!("a parenthesis is not closed");
            }
            return Ok(inner);
        }
        let name = self.name()?;
        if self.accept("WITH") {
            let exception = self.name()?;
            return Ok((self.allowed)(&format!("{name} WITH {exception}")));
        }
        Ok((self.allowed)(name))
    }

    fn name(&mut self) -> Result<&'a str> {
        match *self.words {
            [name, ref rest @ ..] if !matches!(name, "OR" | "AND" | "WITH" | "(" | ")") => {
                self.words = rest;
                Ok(name)
            }
            [word, ..] => bail!("{word:?} where a licence should be"),
            [] => bail!("it ends where a licence should be"),
        }
    }

    fn accept(&mut self, word: &str) -> bool {
        match self.words {
            [first, rest @ ..] if *first == word => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expression: &str) -> Result<bool> {
        satisfied(expression, &|name| {
            ["MIT", "Apache-2.0", "ISC", "Apache-2.0 WITH LLVM-exception"].contains(&name)
        })
    }

    #[test]
    fn what_can_be_satisfied() {
        for expression in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "Unlicense/MIT",
            "Apache-2.0 AND ISC",
            "Apache-2.0 WITH LLVM-exception",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
            "(MIT OR GPL-3.0) AND (ISC OR GPL-3.0)",
            "GPL-3.0 AND GPL-2.0 OR MIT",
            "((MIT))",
        ] {
            assert!(check(expression).unwrap(), "{expression}");
        }
    }

    #[test]
    fn what_cannot() {
        for expression in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "mit",
            "Apache-2.0 WITH Other-exception",
            "MIT WITH LLVM-exception",
            "(MIT OR ISC) AND GPL-3.0",
            "GPL-2.0 OR GPL-3.0",
            "Apache-2.0+",
        ] {
            assert!(!check(expression).unwrap(), "{expression}");
        }
    }

    #[test]
    fn what_is_no_expression() {
        for expression in ["", "MIT OR", "OR MIT", "MIT ISC", "(MIT", "MIT)", "MIT WITH", "()"] {
            assert!(check(expression).is_err(), "{expression:?}");
        }
    }
}
