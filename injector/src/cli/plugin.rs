//! `kubectl dot`: the same program under another name on the PATH, and what it completes.
//!
//! kubectl runs `kubectl-dot` for `kubectl dot`, and asks `kubectl_complete-dot` how a line goes on, in the form of cobra's
//! `__complete`: a candidate a line, with its description behind a tab, and a number with hints for the shell.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use super::{Failure, print};

/// Called so, this is a plugin of kubectl.
const PLUGIN: &str = "kubectl-dot";
/// Called so, it completes one.
const COMPLETION: &str = "kubectl_complete-dot";
/// cobra's ShellCompDirectiveDefault: where nothing is suggested, the shell may suggest files.
const DEFAULT: u8 = 0;
/// cobra's ShellCompDirectiveNoFileComp.
const NO_FILES: u8 = 4;

/// Print what makes a shell complete the program's commands and flags
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  source <(dot-injector completion bash)\n  dot-injector completion zsh > \"${fpath[1]}/_dot-injector\"\n\nFor \
kubectl dot: kubectl completes it by itself once kubectl_complete-dot is on the PATH, too: ln -s kubectl-dot kubectl_complete-dot"
)]
pub(super) struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completion {
    pub(super) fn run(self, mut command: Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "dot-injector", &mut script);
        print(&String::from_utf8_lossy(&script))
    }
}

/// The name by which the program was called, without its folder and `.exe`.
fn called(program: &OsStr) -> Option<&str> {
    Path::new(program).file_name()?.to_str().map(|name| name.strip_suffix(".exe").unwrap_or(name))
}

/// What people write to call the program.
pub(super) fn name(program: &OsStr) -> &'static str {
    if called(program) == Some(PLUGIN) { "kubectl dot" } else { "dot-injector" }
}

/// Whether the program was called to complete a line.
pub(super) fn is_completion(program: &OsStr) -> bool {
    called(program) == Some(COMPLETION)
}

/// The command line under the name by which it was called, in its usage and in its examples.
pub(super) fn named(command: Command, name: &'static str) -> Command {
    if name == "dot-injector" {
        return command;
    }
    let rename = |command: Command| {
        let help = command.get_after_help().map(|help| help.to_string().replace("dot-injector ", &format!("{name} ")));
        match help {
            Some(help) => command.after_help(help),
            None => command,
        }
    };
    rename(command).bin_name(name).mut_subcommands(rename)
}

/// How a line may go on; the last word is the one that is being written.
pub(super) fn completions(command: &Command, words: &[String]) -> String {
    let (last, before) = words.split_last().map_or(("", words), |(last, before)| (last.as_str(), before));
    let subcommand = before.iter().find_map(|word| command.find_subcommand(word));
    let (mut text, mut directive) = (String::new(), NO_FILES);
    let mut suggest = |candidate: &str, help: &str| {
        if candidate.starts_with(last) {
            let line = if help.is_empty() { candidate.to_owned() } else { format!("{candidate}\t{help}") };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{line}");
        }
    };
    let first_line = |help: Option<&clap::builder::StyledStr>| {
        help.map(ToString::to_string).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
    };
    let within = subcommand.unwrap_or(command);
    let awaited = before.last().and_then(|word| {
        let takes = |arg: &&clap::Arg| arg.get_action().takes_values();
        within.get_arguments().filter(takes).find(|arg| {
            arg.get_long().is_some_and(|long| *word == format!("--{long}"))
                || arg.get_short().is_some_and(|short| *word == format!("-{short}"))
        })
    });
    if let Some(arg) = awaited {
        let values = arg.get_possible_values();
        if values.is_empty() {
            directive = DEFAULT;
        }
        values.iter().for_each(|value| suggest(value.get_name(), &first_line(value.get_help())));
    } else if last.starts_with('-') {
        for arg in within.get_arguments() {
            if let Some(long) = arg.get_long() {
                suggest(&format!("--{long}"), &first_line(arg.get_help()));
            }
        }
    } else if subcommand.is_none() {
        for subcommand in command.get_subcommands() {
            suggest(subcommand.get_name(), &first_line(subcommand.get_about()));
        }
    } else {
        // Words without a flag: the shells of `completion`.
        for arg in within.get_positionals() {
            arg.get_possible_values().iter().for_each(|value| suggest(value.get_name(), ""));
        }
    }
    let _ = writeln!(text, ":{directive}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory as _;

    fn suggested(words: &[&str]) -> String {
        let mut command = Cli::command();
        command.build();
        completions(&command, &words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn under_kubectls_name_usage_and_examples_say_kubectl_dot() {
        assert_eq!(name(OsStr::new("/usr/local/bin/kubectl-dot")), "kubectl dot");
        assert_eq!(name(OsStr::new("dot-injector")), "dot-injector");
        let mut command = named(Cli::command(), "kubectl dot");
        let help = command.find_subcommand_mut("status").unwrap().render_long_help().to_string();
        assert!(help.contains("kubectl dot status -A") && !help.contains("dot-injector status"), "{help}");
        assert!(command.render_usage().to_string().contains("kubectl dot"));
    }

    #[test]
    fn a_line_goes_on_with_commands_flags_and_their_values() {
        assert!(suggested(&["sta"]).starts_with("status\tSay which pods"), "{}", suggested(&["sta"]));
        assert!(suggested(&[""]).ends_with(":4\n"));
        assert!(suggested(&["status", "--all"]).starts_with("--all-namespaces\t"));
        assert!(suggested(&["status", "-o", ""]).contains("json\t"));
        assert_eq!(suggested(&["inject", "-f", ""]), ":0\n");
        assert_eq!(suggested(&["nonsense-", "--zzz"]), ":4\n");
    }

    #[test]
    fn it_is_asked_for_completions_under_a_name_of_its_own() {
        assert!(is_completion(OsStr::new("/usr/bin/kubectl_complete-dot")));
        assert!(!is_completion(OsStr::new("/usr/bin/kubectl-dot")));
    }
}
