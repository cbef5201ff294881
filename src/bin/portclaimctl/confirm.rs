//! Asking before something is taken away.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, bail};

/// Whether to go on: yes, where that was said already; else whoever sits at the
/// terminal is asked. What is to happen has been printed.
pub fn confirm(is_confirmed: bool) -> anyhow::Result<bool> {
    if is_confirmed {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        bail!("nobody is there to be asked: say --yes");
    }
    ask(&mut io::stdin().lock(), &mut io::stderr())
}

fn ask(answers: &mut impl BufRead, out: &mut impl Write) -> anyhow::Result<bool> {
    write!(out, "Go on? [y/N] ").and_then(|()| out.flush()).context("cannot ask")?;
    let mut answer = String::new();
    answers.read_line(&mut answer).context("cannot read the answer")?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        for (answer, expected) in [
            ("y\n", true),
            ("YES\n", true),
            ("\n", false),
            ("n\n", false),
            ("yep\n", false),
            ("", false),
        ] {
            let mut asked = Vec::new();
            assert_eq!(ask(&mut answer.as_bytes(), &mut asked).unwrap(), expected, "{answer:?}");
            assert_eq!(asked, b"Go on? [y/N] ");
        }
    }
}
