//! `login` and `logout`: prove to a registry who one is, and forget that again.

use std::io::{BufRead, IsTerminal, Read, Write};

use anyhow::{Context, Result, bail, ensure};
use bakery::source::registry;
use spec::reference::{DEFAULT_REGISTRY, Reference};

/// Log in to a registry
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Host, with its port if it has one [default: docker.io]
    registry: Option<String>,
    /// User name [default: asked for]
    #[arg(short, long)]
    username: Option<String>,
    /// Password or token; who may list processes sees it, so rather use --password-stdin
    #[arg(short, long)]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, conflicts_with = "password", requires = "username")]
    password_stdin: bool,
}

/// Log out of a registry
#[derive(Debug, clap::Args)]
pub(super) struct LogoutArgs {
    /// Host, with its port if it has one [default: docker.io]
    registry: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let host = host(args.registry.as_deref())?;
    let name = match &args.username {
        Some(name) => name.clone(),
        None => ask("Username: ")?,
    };
    ensure!(!name.is_empty() && !name.contains(':'), "{name:?} is no user name");
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading the password")?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => secretly(|| ask("Password: "))?,
    };
    ensure!(!password.is_empty(), "the password is empty");
    registry::login(&host, &name, &password)?;
    println!("Login Succeeded");
    Ok(0)
}

pub(super) fn logout(args: &LogoutArgs) -> Result<u8> {
    let host = host(args.registry.as_deref())?;
    registry::logout(&host)?;
    println!("Removed login credentials for {host}");
    Ok(0)
}

fn host(text: Option<&str>) -> Result<String> {
    let text = text.unwrap_or(DEFAULT_REGISTRY);
    let text = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    // What can stand before an image's name is a registry.
    match Reference::parse(&format!("docker://{text}/x"), |_| false)? {
        Reference::Registry(name) if name.registry == text || text == "index.docker.io" => {
            Ok(name.registry)
        }
        _ => bail!("{text:?} is no registry's host"),
    }
}

fn ask(question: &str) -> Result<String> {
    ensure!(
        std::io::stdin().is_terminal(),
        "standard input is no terminal: use -u and --password-stdin"
    );
    eprint!("{question}");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("reading the answer")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Without an echo on the terminal.
fn secretly<T>(ask: impl FnOnce() -> Result<T>) -> Result<T> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = rustix::stdio::stdin();
    let Ok(before) = tcgetattr(stdin) else { return ask() };
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    tcsetattr(stdin, OptionalActions::Flush, &quiet)?;
    let answer = ask();
    tcsetattr(stdin, OptionalActions::Flush, &before)?;
    eprintln!();
    answer
}
