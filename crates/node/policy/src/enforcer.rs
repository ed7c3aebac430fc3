//! The kernel side: commits contents, and notices when somebody else changed the table. After a failed commit nothing is
//! known of it, and the next one replaces it as a whole: one way to recover, the same as at a start.

use skiff_linux::netlink::Error;
use skiff_linux::netlink::netns::NetNs;
use skiff_linux::nft::Nft;

use crate::decide::Desired;
use crate::table::{self, TABLE};

/// What the kernel has of ours.
enum Applied {
    /// It is not known.
    Unknown,
    /// No table.
    Nothing,
    /// This content, in the table with this handle.
    Content(Box<Desired>, u64),
}

/// The table of one network namespace.
pub struct Enforcer {
    nft: Nft,
    applied: Applied,
    /// The generation at the last look, when nobody had changed our table.
    generation: Option<u32>,
}

impl Enforcer {
    /// Of the calling thread's network namespace. What table is there is replaced by the first [`Enforcer::apply`].
    pub fn open() -> Result<Self, Error> {
        Nft::open().map(Self::of)
    }

    /// Of another one.
    pub fn open_in(netns: &NetNs) -> Result<Self, Error> {
        Nft::open_in(netns).map(Self::of)
    }

    fn of(nft: Nft) -> Self {
        Self { nft, applied: Applied::Unknown, generation: None }
    }

    /// Brings the kernel to this content; whether that changed anything.
    pub fn apply(&mut self, desired: Desired) -> Result<bool, Error> {
        let is_empty = desired == Desired::default();
        let before = std::mem::replace(&mut self.applied, Applied::Unknown);
        let batch = match &before {
            Applied::Nothing if is_empty => {
                self.applied = before;
                return Ok(false);
            }
            Applied::Content(content, _) if **content == desired => {
                self.applied = before;
                return Ok(false);
            }
            _ if is_empty => table::none(),
            Applied::Content(content, _) => table::difference(content, &desired),
            Applied::Unknown | Applied::Nothing => table::whole(&desired),
        };
        self.nft.commit(batch)?;
        self.generation = None;
        self.applied = match before {
            _ if is_empty => Applied::Nothing,
            Applied::Content(_, handle) => Applied::Content(Box::new(desired), handle),
            _ => match self.nft.table(TABLE)? {
                Some(info) => Applied::Content(Box::new(desired), info.handle),
                None => Applied::Unknown,
            },
        };
        Ok(true)
    }

    /// Whether the table is as it was left: one message as long as nobody changes any table. When it is not, the next
    /// [`Enforcer::apply`] replaces it.
    pub fn verify(&mut self) -> Result<bool, Error> {
        let Applied::Content(content, handle) = &self.applied else { return Ok(true) };
        let now = self.nft.generation()?;
        if self.generation == Some(now) {
            return Ok(true);
        }
        let is_same = self.nft.table(TABLE)?.is_some_and(|info| info.handle == *handle);
        let whole = is_same && (self.nft.chains(TABLE)?.len(), self.nft.count_rules(TABLE)?) == table::counts(content);
        match whole {
            true => self.generation = Some(now),
            false => self.applied = Applied::Unknown,
        }
        Ok(whole)
    }
}
