//! The measures, on Linux.

use std::io;

use super::{Confinement, Measure, landlock, seccomp, system};

/// Does one of them. They are done in the order of [`Measure::ALL`]: landlock and seccomp ask for no_new_privs.
pub(super) fn apply(measure: Measure, confinement: &Confinement) -> io::Result<()> {
    match measure {
        Measure::Undumpable => system::set_undumpable(),
        Measure::NoCore => system::set_no_core(),
        Measure::NoNewPrivileges => system::set_no_new_privileges(),
        Measure::Landlock => landlock::restrict(confinement),
        Measure::Seccomp => system::install_filter(&seccomp::filter(!confinement.programs.is_empty())?),
    }
}
