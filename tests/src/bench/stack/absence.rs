//! A node of which nothing is to be expected: its cable is cut, it is frozen, or it is dead. How that is brought about
//! and undone is the same for everybody's nodes.

use crate::freezer::Freezer;
use crate::topology::{Lab, LabError};

/// Whether and how a node is away. Dropping it thaws the processes.
#[derive(Debug)]
pub(super) struct Absence {
    node: &'static str,
    frozen: Option<Freezer>,
    is_cut: bool,
}

impl Absence {
    /// Of the node of that name, which is there.
    pub fn of(node: &'static str) -> Self {
        Self { node, frozen: None, is_cut: false }
    }

    /// Whether nothing is to be expected of it.
    pub fn is_away(&self) -> bool {
        self.is_cut || self.frozen.is_some()
    }

    /// Cuts its cable.
    pub fn cut(&mut self, lab: &Lab) -> Result<(), LabError> {
        lab.cut(self.node)?;
        self.is_cut = true;
        Ok(())
    }

    /// Freezes these processes of it, by their ids as the host sees them.
    pub fn freeze(&mut self, processes: &[u32]) -> anyhow::Result<()> {
        let freezer = Freezer::of_all(processes)?;
        freezer.freeze()?;
        self.frozen = Some(freezer);
        Ok(())
    }

    /// Thaws what is frozen, and mends the cable.
    pub fn end(&mut self, lab: &Lab) -> Result<(), LabError> {
        self.frozen = None;
        if self.is_cut {
            lab.heal(self.node)?;
            self.is_cut = false;
        }
        Ok(())
    }
}
