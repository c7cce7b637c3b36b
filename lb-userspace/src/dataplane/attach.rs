//! The programs' way onto the interfaces, and the links that keep them there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use aya::programs::{
    ProgramError, XdpMode as AyaXdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};
use lb_common::wire::Mac;

use super::{
    Dataplane, DataplaneError, PROGRAM, interface,
    pins::{link_pin, remove_links},
    program, refused,
};
use crate::config::model::XdpMode;

/// A link without a pin is gone by then; what is in the way still is another's.
const LINK_GOES_WITHIN: Duration = Duration::from_millis(200);

/// An interface that the program is to be attached to: a configured one or, for a VLAN sub-interface, its parent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttachPoint {
    /// Its index.
    pub if_index: u32,
    /// Its name.
    pub interface: String,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

impl AttachedMode {
    /// The word in `status` and in the name of the pin.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn for_aya(self) -> AyaXdpMode {
        match self {
            Self::Native => AyaXdpMode::Driver,
            Self::Generic => AyaXdpMode::Skb,
        }
    }
}

/// Where the program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The interface's name.
    pub interface: String,
    /// Its index.
    pub if_index: u32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// How.
    pub mode: AttachedMode,
    /// Whether a predecessor's link was taken over, so that no packet missed a program.
    pub adopted: bool,
}

impl Dataplane {
    /// Attaches to each point, by a predecessor's link where there is one that fits. Where one point fails, the links
    /// that were made for the others go again.
    pub(super) fn attach(
        &mut self,
        points: &[AttachPoint],
        wanted: XdpMode,
    ) -> Result<Vec<Attachment>, DataplaneError> {
        let modes: &[AttachedMode] = match wanted {
            XdpMode::Auto => &[AttachedMode::Native, AttachedMode::Generic],
            XdpMode::Native => &[AttachedMode::Native],
            XdpMode::Generic => &[AttachedMode::Generic],
        };
        let mut attachments = Vec::new();
        let mut pins = BTreeSet::new();
        let mut missing = Vec::new();
        for point in points {
            let adopted = self.adopt_one(point, modes)?;
            match adopted {
                Some((attachment, pin)) => {
                    attachments.push(attachment);
                    pins.insert(pin);
                }
                None => missing.push(point),
            }
        }
        // A link on another interface, or in another mode, would be in the way.
        remove_links(&self.pins, &pins)?;
        let mut created = Vec::new();
        for point in missing {
            match self.create_one(point, modes) {
                Ok((attachment, pin)) => {
                    attachments.push(attachment);
                    created.push(pin);
                }
                Err(error) => {
                    for pin in created {
                        if let Err(error) = fs::remove_file(&pin) {
                            tracing::warn!(pin = %pin.display(), %error, "a link could not be taken back");
                        }
                    }
                    return Err(error);
                }
            }
        }
        // In the order in which they are configured.
        attachments
            .sort_by_key(|attachment| points.iter().position(|point| point.if_index == attachment.if_index));
        Ok(attachments)
    }

    /// Attaches again wherever somebody has taken our program off, with the maps as they are.
    ///
    /// # Errors
    ///
    /// Where that is refused: another program may be there.
    pub fn attach_again(&mut self, points: &[AttachPoint], wanted: XdpMode) -> Result<(), DataplaneError> {
        self.attachments = self.attach(points, wanted)?;
        Ok(())
    }

    /// The kernel-wide id of the program that is attached.
    ///
    /// # Errors
    ///
    /// Where the kernel does not tell.
    pub fn program_id(&mut self) -> Result<u32, DataplaneError> {
        let program = program(&mut self.ebpf, PROGRAM)?;
        program.info().map(|info| info.id()).map_err(refused)
    }

    /// Attaches in generic mode instead, everywhere, for a driver that takes a program but does not send for it.
    ///
    /// # Errors
    ///
    /// Where that is refused, too; nothing is attached then.
    pub fn fall_back_to_generic(&mut self) -> Result<(), DataplaneError> {
        let attachments = std::mem::take(&mut self.attachments);
        remove_links(&self.pins, &BTreeSet::new())?;
        let mode = AttachedMode::Generic;
        for attachment in attachments {
            let pin = link_pin(&self.pins, attachment.if_index, mode);
            if let Err(error) = self.create_link(attachment.if_index, mode, &pin) {
                self.attachments.clear();
                remove_links(&self.pins, &BTreeSet::new())?;
                return Err(error);
            }
            self.attachments.push(Attachment { mode, adopted: false, ..attachment });
        }
        Ok(())
    }

    fn adopt_one(
        &mut self,
        point: &AttachPoint,
        modes: &[AttachedMode],
    ) -> Result<Option<(Attachment, PathBuf)>, DataplaneError> {
        for &mode in modes {
            let pin = link_pin(&self.pins, point.if_index, mode);
            if self.adopt_link(&pin)? {
                return Ok(Some((attached(point, mode, true)?, pin)));
            }
        }
        Ok(None)
    }

    fn create_one(
        &mut self,
        point: &AttachPoint,
        modes: &[AttachedMode],
    ) -> Result<(Attachment, PathBuf), DataplaneError> {
        let mut last = None;
        for &mode in modes {
            let attachment = attached(point, mode, false)?;
            let pin = link_pin(&self.pins, point.if_index, mode);
            match self.create_link(point.if_index, mode, &pin) {
                Ok(()) => return Ok((attachment, pin)),
                Err(DataplaneError::Load(refusal)) => last = Some((mode, refusal)),
                Err(error) => return Err(error),
            }
        }
        let Some((mode, source)) = last else { unreachable!("every wish has at least one mode") };
        Err(DataplaneError::Attach {
            interface: point.interface.clone(),
            mode: mode.name(),
            remedy: "another XDP program may be there (`ip link show`), or the driver lacks queues or room for the MTU",
            source,
        })
    }

    /// Attaches and pins. The kernel frees a link a moment after its last pin is gone, and until then it is in the way.
    fn create_link(&mut self, if_index: u32, mode: AttachedMode, pin: &Path) -> Result<(), DataplaneError> {
        let program = program(&mut self.ebpf, PROGRAM)?;
        let begun = Instant::now();
        let id = loop {
            match program.attach_to_if_index(if_index, mode.for_aya()) {
                Ok(id) => break id,
                Err(error) if is_in_the_way(&error) && begun.elapsed() < LINK_GOES_WITHIN => {
                    sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(refused(error)),
            }
        };
        let link = program.take_link(id).map_err(refused)?;
        let link = FdLink::try_from(link).map_err(DataplaneError::Link)?;
        link.pin(pin).map_err(DataplaneError::Pin)?;
        Ok(())
    }

    /// Puts our program into a predecessor's link. False where there is none, or its interface is gone.
    fn adopt_link(&mut self, pin: &Path) -> Result<bool, DataplaneError> {
        if !pin.exists() {
            return Ok(false);
        }
        let pinned = PinnedLink::from_pin(pin).map_err(DataplaneError::Link)?;
        let link: XdpLink = FdLink::from(pinned).try_into().map_err(DataplaneError::Link)?;
        match program(&mut self.ebpf, PROGRAM)?.attach_to_link(link) {
            Ok(id) => {
                // Closing our handle leaves the link where it is: the pin holds it.
                drop(program(&mut self.ebpf, PROGRAM)?.take_link(id).map_err(refused)?);
                Ok(true)
            }
            Err(error) => {
                tracing::debug!(%error, "a pinned link could not be adopted");
                Ok(false)
            }
        }
    }
}

fn attached(point: &AttachPoint, mode: AttachedMode, adopted: bool) -> Result<Attachment, DataplaneError> {
    let AttachPoint { if_index, interface } = point.clone();
    let mac = interface::mac(&interface)
        .map_err(|source| DataplaneError::Interface { interface: interface.clone(), source })?;
    Ok(Attachment { interface, if_index, mac, mode, adopted })
}

/// Whether another program or link on the interface is why attaching failed.
fn is_in_the_way(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    matches!(error.io_error.raw_os_error(), Some(libc::EEXIST | libc::EBUSY))
}
