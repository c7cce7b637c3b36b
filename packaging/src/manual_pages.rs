//! The manual pages of the commands, made of the command line itself.

use clap::Command;
use clap_mangen::Man;
use roff::{Roff, bold, roman};

/// A page.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its name without the section: `xvip`, `xvip-status`.
    pub name: String,
    /// Its text, as man(7) reads it.
    pub text: String,
}

/// What every page says in the end.
const FILES: [(&str, &str); 4] = [
    ("/etc/xvip/xvip.toml", "The configuration, xvip.toml(5)."),
    ("/run/xvip/control.sock", "Where the daemon answers the other commands."),
    ("/sys/fs/bpf/xvip", "Programs and maps, which outlive the daemon."),
    ("/var/lib/xvip", "What operators said of backends, and the history of events."),
];
const EXIT_CODES: [(&str, &str); 3] =
    [("0", "Done."), ("1", "Failed at run time."), ("2", "Bad usage or bad configuration.")];

/// `xvip(1)` and a page for each subcommand, and for theirs.
///
/// # Errors
/// A page cannot be written.
pub fn of_commands() -> anyhow::Result<Vec<Page>> {
    let mut command = lb_userspace::cli::command();
    command.build();
    let mut pages = Vec::new();
    collect(&command, "", &mut pages)?;
    Ok(pages)
}

fn collect(command: &Command, above: &str, pages: &mut Vec<Page>) -> anyhow::Result<()> {
    let name =
        if above.is_empty() { command.get_name().to_owned() } else { format!("{above}-{}", command.get_name()) };
    let man = Man::new(command.clone().display_name(name.clone())).title(name.clone()).section("1").source(format!("xvip {}", crate::VERSION));
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut text)?;
    }
    if command.get_subcommands().any(|below| !below.is_hide_set() && below.get_name() != "help") {
        man.render_subcommands_section(&mut text)?;
    }
    let mut end = Roff::default();
    list(&mut end, "EXIT STATUS", &EXIT_CODES);
    list(&mut end, "FILES", &FILES);
    end.control("SH", ["SEE ALSO"]);
    end.text([bold("xvip"), roman("(1), "), bold("xvip.toml"), roman("(5), /usr/share/doc/xvip/docs")]);
    text.extend(end.to_roff().into_bytes());
    pages.push(Page { name: name.clone(), text: String::from_utf8(text)? });
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help") {
        collect(below, &name, pages)?;
    }
    Ok(())
}

fn list(roff: &mut Roff, title: &str, rows: &[(&str, &str)]) {
    roff.control("SH", [title]);
    for (name, meaning) in rows {
        roff.control("TP", []);
        roff.text([bold(*name)]);
        roff.text([roman(*meaning)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_with_its_options() {
        let pages = of_commands().expect("written");
        let page = |name: &str| &pages.iter().find(|page| page.name == name).expect(name).text;
        assert!(page("xvip").contains("xvip\\-status(1)"), "{}", page("xvip"));
        assert!(page("xvip-run").contains("\\-\\-replace"));
        assert!(page("xvip-backend-drain").contains("\\-\\-deadline"));
        assert!(page("xvip-status").contains("EXIT STATUS"));
        let commands = lb_userspace::cli::command();
        for command in commands.get_subcommands() {
            page(&format!("xvip-{}", command.get_name()));
        }
        assert!(!pages.iter().any(|page| page.name.contains("help")));
    }
}
