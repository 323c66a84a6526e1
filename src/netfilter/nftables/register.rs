//! Registers of the nf_tables virtual machine while a rule runs: for each byte, the load it comes from and how it was
//! modified.
//!
//! `net/netfilter/nf_tables_core.c`: `nft_do_chain`, `struct nft_regs`; `nf_tables_api.c`: `nft_parse_register`.
//!
//! It works on bytes rather than registers, so that comparisons of several fields loaded together, of masked fields and
//! of prefixes all become tests of single fields. Used by readers and redaction.

use super::expr::{Bitwise, Expr, Exthdr, Payload};
use super::fields::{
    ETHER_TYPE, ETHER_TYPE_IN_VLAN, IFNAMSIZ, ct_width, fib_width, headers, meta_width, rt_width, xfrm_width,
};
pub use super::fields::{Header, NetworkHeader};
use super::uapi::{
    NFPROTO_ARP, NFPROTO_IPV4, NFPROTO_IPV6, NFT_BITWISE_LSHIFT, NFT_BITWISE_MASK_XOR, NFT_BITWISE_RSHIFT, NFT_CMP_EQ,
    NFT_EXTHDR_OP_IPV6, NFT_META_L4PROTO, NFT_META_NFPROTO, NFT_META_PROTOCOL, NFT_PAYLOAD_LL_HEADER, NFT_REG_1,
    NFT_REG_4, NFT_REG_VERDICT, NFT_REG32_00, NFT_REG32_15, REGISTERS_LENGTH,
};

/// Offset of a register's first byte; `None`: the verdict register, or not a register.
pub fn offset(register: u32) -> Option<usize> {
    match register {
        NFT_REG_1..=NFT_REG_4 => Some(16 * (register - NFT_REG_1) as usize),
        NFT_REG32_00..=NFT_REG32_15 => Some(4 * (register - NFT_REG32_00) as usize),
        _ => None,
    }
}

/// Origin of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A field of a header.
    Header(Header),
    /// Other bytes of a header.
    Payload {
        /// `NFTA_PAYLOAD_BASE`
        base: u32,
        /// Offset of the first byte.
        offset: usize,
        /// Number of bytes.
        length: usize,
    },
    /// `NFT_META_*`
    Meta(u32),
    /// `NFT_CT_*`, and the direction if the key depends on it.
    Ct(u32, Option<u8>),
    /// `NFT_FIB_RESULT_*` and `NFTA_FIB_F_*`
    Fib(u32, u32),
    /// `NFT_RT_*`
    Rt(u32),
    /// `NFT_XFRM_KEY_*`
    Xfrm(u32),
    /// The value of `immediate`.
    Constant,
    /// Data of a map.
    Map,
    /// `exthdr`: `NFT_EXTHDR_OP_*`, number of the option or header, offset in it
    Exthdr(u32, u8, u32),
    /// `exthdr`: whether the option or header is present, 1 or 0 (`NFT_EXTHDR_F_PRESENT`)
    Present(u32, u8),
    /// `numgen`
    Numgen,
    /// `hash`
    Hash,
    /// `socket`
    Socket,
    /// `osf`
    Osf,
    /// `tunnel`
    Tunnel,
    /// Computed from several loads.
    Computed,
    /// From a register that does not exist.
    NoRegister,
    /// An unknown expression, which may have loaded anything.
    Unsupported,
}

/// One load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Origin of the bytes.
    pub source: Source,
    /// The packet's network header, as far as the rule had tested it.
    pub network: Option<NetworkHeader>,
    /// The transport protocol (`IPPROTO_*`), if the rule had tested it.
    pub transport: Option<u8>,
    /// Index of the expression in the rule, from 0.
    pub expression: usize,
}

/// A register byte: byte `byte` of load `load`, `& and ^ xor`; for a constant, `xor` is its value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cell {
    /// Index in [`Machine::loads`]; `None`: nothing was loaded.
    pub load: Option<usize>,
    /// Offset in the load, from 0.
    pub byte: usize,
    /// Bits kept from the load.
    pub and: u8,
    /// Bits inverted.
    pub xor: u8,
    /// `NFT_BITWISE_LSHIFT` or `NFT_BITWISE_RSHIFT`, if the byte depends on several bytes of the load; else 0.
    pub computed: u32,
}

/// The registers, and what the rule has tested so far.
#[derive(Debug)]
pub struct Machine {
    cells: [Cell; REGISTERS_LENGTH],
    /// All loads.
    pub loads: Vec<Load>,
    /// The packet's network header, as far as the family or a comparison shows it.
    pub network: Option<NetworkHeader>,
    /// `IPPROTO_*`, if a comparison shows it.
    pub transport: Option<u8>,
    /// Whether packets have a VLAN tag.
    vlan: bool,
}

impl Machine {
    /// At the start of a rule in a table of this family (`NFPROTO_*`).
    pub fn new(family: u8) -> Self {
        let network = match family {
            NFPROTO_IPV4 => Some(NetworkHeader::Ipv4),
            NFPROTO_IPV6 => Some(NetworkHeader::Ipv6),
            NFPROTO_ARP => Some(NetworkHeader::Arp),
            _ => None,
        };
        Self { cells: [Cell::default(); REGISTERS_LENGTH], loads: Vec::new(), network, transport: None, vlan: false }
    }

    /// The cells from a register on; empty if it does not exist.
    pub fn from(&self, register: u32) -> &[Cell] {
        &self.cells[offset(register).unwrap_or(REGISTERS_LENGTH)..]
    }

    /// This many cells from a register on; `None` if there are fewer.
    pub fn at(&self, register: u32, length: usize) -> Option<&[Cell]> {
        offset(register).and_then(|_| self.from(register).get(..length))
    }

    /// The load a byte comes from; `None`: nothing was loaded.
    pub fn load_of(&self, cell: &Cell) -> Option<&Load> {
        self.loads.get(cell.load?)
    }

    /// Whether a byte is the unmodified header byte at this offset (`NFT_PAYLOAD_*`).
    pub fn is_of_header(&self, cell: &Cell, base: u32, at: usize) -> bool {
        let source = |load: &Load| match load.source {
            Source::Payload { base: own, offset, .. } => own == base && offset + cell.byte == at,
            Source::Header(header) => {
                let fields = headers(base, load.network);
                fields.iter().any(|(own, start, _)| *own == header && start + cell.byte == at)
            }
            _ => false,
        };
        (cell.and, cell.xor, cell.computed) == (0xff, 0, 0) && self.load_of(cell).is_some_and(source)
    }

    /// The constant in a register; `None` if it holds anything else.
    pub fn constant(&self, register: u32, length: usize) -> Option<Vec<u8>> {
        let is_constant = |cell: &Cell| self.load_of(cell).is_some_and(|load| load.source == Source::Constant);
        let cells = self.at(register, length)?;
        cells.iter().map(|cell| (is_constant(cell) && cell.computed == 0).then_some(cell.xor)).collect()
    }

    /// Applies an expression that is not completely known, which may do anything to registers.
    pub fn run_unknown(&mut self, at: usize) {
        self.load(at, Some(NFT_REG_1), Source::Unsupported, REGISTERS_LENGTH);
    }

    /// Applies the expression at index `at`.
    pub fn run(&mut self, at: usize, expression: &Expr<'_>) {
        match expression {
            Expr::Payload(payload) => self.payload(at, payload),
            Expr::Meta(meta) => self.load(at, meta.dreg, Source::Meta(meta.key), meta_width(meta.key)),
            Expr::Ct(ct) => self.load(at, ct.dreg, Source::Ct(ct.key, ct.direction), ct_width(ct.key, self.network)),
            Expr::Fib(fib) => {
                self.load(at, Some(fib.dreg), Source::Fib(fib.result, fib.flags), fib_width(fib.result));
            }
            Expr::Rt(rt) => self.load(at, Some(rt.dreg), Source::Rt(rt.key), rt_width(rt.key)),
            Expr::Xfrm(xfrm) => self.load(at, Some(xfrm.dreg), Source::Xfrm(xfrm.key), xfrm_width(xfrm.key)),
            Expr::Exthdr(exthdr) => self.exthdr(at, exthdr),
            Expr::Numgen(numgen) => self.load(at, Some(numgen.dreg), Source::Numgen, 4),
            Expr::Hash(hash) => self.load(at, Some(hash.dreg), Source::Hash, 4),
            Expr::Socket(socket) => self.load(at, Some(socket.dreg), Source::Socket, 8),
            Expr::Osf(osf) => self.load(at, Some(osf.dreg), Source::Osf, IFNAMSIZ),
            Expr::Tunnel(tunnel) => self.load(at, Some(tunnel.dreg), Source::Tunnel, 4),
            // The length of data is known to the map only.
            Expr::Lookup(lookup) => {
                let dreg = lookup.dreg.filter(|register| *register != NFT_REG_VERDICT);
                self.load(at, dreg, Source::Map, REGISTERS_LENGTH);
            }
            Expr::Immediate(immediate) => {
                if let Some(value) = &immediate.data.value {
                    self.load_constant(at, immediate.dreg, value);
                }
            }
            Expr::Bitwise(bitwise) => self.bitwise(at, bitwise),
            Expr::Byteorder(swap) => {
                self.swap(at, swap.sreg, swap.dreg, swap.len as usize, swap.size as usize);
            }
            Expr::Cmp(cmp) => {
                if cmp.op == NFT_CMP_EQ {
                    self.learn(cmp.sreg, cmp.data.value.as_deref().unwrap_or_default());
                }
            }
            Expr::Unsupported { .. } => self.run_unknown(at),
            Expr::Connlimit(_)
            | Expr::Counter(_)
            | Expr::Dup(_)
            | Expr::Dynset(_)
            | Expr::FlowOffload(_)
            | Expr::Fwd(_)
            | Expr::Last(_)
            | Expr::Limit(_)
            | Expr::Log(_)
            | Expr::Masq(_)
            | Expr::Match(_)
            | Expr::Nat(_)
            | Expr::Notrack(_)
            | Expr::Objref(_)
            | Expr::Queue(_)
            | Expr::Quota(_)
            | Expr::Range(_)
            | Expr::Redir(_)
            | Expr::Reject(_)
            | Expr::Synproxy(_)
            | Expr::Target(_)
            | Expr::Tproxy(_) => {}
        }
    }

    /// Writes to a register; the kernel pads the last word with zeros.
    fn store(&mut self, register: u32, cells: impl IntoIterator<Item = Cell>) {
        let mut at = offset(register).unwrap_or(REGISTERS_LENGTH);
        for (place, cell) in self.cells.iter_mut().skip(at).zip(cells) {
            *place = cell;
            at += 1;
        }
        let end = at.next_multiple_of(4).min(REGISTERS_LENGTH);
        self.cells[at.min(end)..end].fill(Cell::default());
    }

    fn note(&mut self, expression: usize, source: Source) -> usize {
        self.loads.push(Load { source, network: self.network, transport: self.transport, expression });
        self.loads.len() - 1
    }

    fn load(&mut self, at: usize, register: Option<u32>, source: Source, width: usize) {
        let Some(register) = register else { return };
        let load = Some(self.note(at, source));
        self.store(
            register,
            (0..width.min(REGISTERS_LENGTH)).map(|byte| Cell { load, byte, and: 0xff, ..Cell::default() }),
        );
    }

    fn load_constant(&mut self, at: usize, register: u32, value: &[u8]) {
        let load = Some(self.note(at, Source::Constant));
        let cell = |(byte, value): (usize, &u8)| Cell { load, byte, xor: *value, ..Cell::default() };
        self.store(register, value.iter().enumerate().map(cell));
    }

    /// Loads header bytes, field by field.
    fn payload(&mut self, expression: usize, payload: &Payload<'_>) {
        let Some(register) = payload.dreg else { return };
        let (base, from) = (payload.base, payload.offset as usize);
        let (mut at, end) = (from, from + (payload.len as usize).min(REGISTERS_LENGTH));
        let fields = headers(base, self.network);
        let mut cells = Vec::new();
        while at < end {
            let field = fields.iter().find(|(_, start, width)| (*start..start + width).contains(&at));
            let next = fields.iter().map(|(_, start, _)| *start).filter(|start| *start > at).min();
            let (source, first, upto) = match field {
                Some((header, start, width)) => (Source::Header(*header), at - start, end.min(start + width)),
                None => {
                    let upto = next.unwrap_or(end).min(end).min(at + 16);
                    (Source::Payload { base, offset: at, length: upto - at }, 0, upto)
                }
            };
            let load = Some(self.note(expression, source));
            cells.extend((first..first + upto - at).map(|byte| Cell { load, byte, and: 0xff, ..Cell::default() }));
            at = upto;
        }
        self.store(register, cells);
    }

    fn exthdr(&mut self, at: usize, exthdr: &Exthdr<'_>) {
        let width = exthdr.len.map_or(REGISTERS_LENGTH, |length| (length as usize).min(REGISTERS_LENGTH));
        let (op, kind) = (exthdr.op.unwrap_or(NFT_EXTHDR_OP_IPV6), exthdr.kind.unwrap_or_default());
        let source = match exthdr.asks_presence() {
            true => Source::Present(op, kind),
            false => Source::Exthdr(op, kind, exthdr.offset.unwrap_or_default()),
        };
        self.load(at, exthdr.dreg, source, width);
    }

    fn bitwise(&mut self, at: usize, bitwise: &Bitwise<'_>) {
        let (mask, xor) = (bitwise.mask(), bitwise.xor());
        let (sreg, dreg, length) = (bitwise.sreg, bitwise.dreg, bitwise.len as usize);
        match bitwise.op.unwrap_or(NFT_BITWISE_MASK_XOR) {
            NFT_BITWISE_MASK_XOR => self.mask_xor(at, sreg, dreg, mask, xor),
            op @ (NFT_BITWISE_LSHIFT | NFT_BITWISE_RSHIFT) => self.shift(at, sreg, dreg, length, op),
            _ => self.load(at, Some(dreg), Source::Computed, length),
        }
    }

    /// `dreg = sreg & mask ^ xor`
    fn mask_xor(&mut self, at: usize, sreg: u32, dreg: u32, mask: &[u8], xor: &[u8]) {
        let length = mask.len().max(xor.len());
        let Some(cells) = self.at(sreg, length).map(<[Cell]>::to_vec) else {
            return self.load(at, Some(dreg), Source::NoRegister, length);
        };
        let target = self.cells.iter_mut().skip(offset(dreg).unwrap_or(REGISTERS_LENGTH));
        for (at, (place, cell)) in target.zip(cells).enumerate() {
            let mask = mask.get(at).copied().unwrap_or(0);
            let flipped = xor.get(at).copied().unwrap_or(0);
            *place = Cell { and: cell.and & mask, xor: cell.xor & mask ^ flipped, ..cell };
        }
    }

    /// `dreg = hton(sreg)`, in groups of `size` bytes; `ntoh` is the same.
    fn swap(&mut self, at: usize, sreg: u32, dreg: u32, length: usize, size: usize) {
        let Some(cells) = self.at(sreg, length).map(<[Cell]>::to_vec) else {
            return self.load(at, Some(dreg), Source::NoRegister, length);
        };
        let mut target = self.cells.iter_mut().skip(offset(dreg).unwrap_or(REGISTERS_LENGTH));
        for group in cells.chunks(size.max(1)) {
            let little = cfg!(target_endian = "little");
            for at in 0..group.len() {
                let cell = group[if little { group.len() - 1 - at } else { at }];
                target.next().into_iter().for_each(|place| *place = cell);
            }
        }
    }

    /// Shifts, which move bits between bytes.
    fn shift(&mut self, at: usize, sreg: u32, dreg: u32, length: usize, computed: u32) {
        match self.at(sreg, length).map(<[Cell]>::to_vec) {
            None => self.load(at, Some(dreg), Source::NoRegister, length),
            Some(cells) if cells.iter().any(|cell| cell.load != cells[0].load) => {
                self.load(at, Some(dreg), Source::Computed, length);
            }
            Some(cells) => self.store(dreg, cells.into_iter().map(|cell| Cell { computed, ..cell })),
        }
    }

    /// Records what a comparison of a field shows about the packet.
    fn learn(&mut self, register: u32, value: &[u8]) {
        let cells = self.at(register, value.len()).unwrap_or_default();
        let unchanged = |(at, cell): (usize, &Cell)| {
            (cell.byte, cell.and, cell.xor, cell.computed) == (at, 0xff, 0, 0) && cell.load == cells[0].load
        };
        if !cells.iter().enumerate().all(unchanged) {
            return;
        }
        let Some(source) = cells.first().and_then(|cell| self.load_of(cell)).map(|load| load.source) else { return };
        match (source, value) {
            (Source::Meta(NFT_META_NFPROTO), [NFPROTO_IPV4]) => self.network = Some(NetworkHeader::Ipv4),
            (Source::Meta(NFT_META_NFPROTO), [NFPROTO_IPV6]) => self.network = Some(NetworkHeader::Ipv6),
            (Source::Meta(NFT_META_PROTOCOL), _) => self.learn_type(value),
            (Source::Payload { base: NFT_PAYLOAD_LL_HEADER, offset: ETHER_TYPE, .. }, _) => self.learn_type(value),
            (Source::Payload { base: NFT_PAYLOAD_LL_HEADER, offset: ETHER_TYPE_IN_VLAN, .. }, _) if self.vlan => {
                self.learn_type(value);
            }
            (Source::Meta(NFT_META_L4PROTO) | Source::Header(Header::Ipv4Protocol | Header::Ipv6Next), [protocol]) => {
                self.transport = Some(*protocol);
            }
            _ => {}
        }
    }

    /// Records what a comparison of the EtherType (`ETH_P_*`) shows.
    fn learn_type(&mut self, value: &[u8]) {
        match value {
            [0x08, 0x00] => self.network = Some(NetworkHeader::Ipv4),
            [0x86, 0xdd] => self.network = Some(NetworkHeader::Ipv6),
            [0x08, 0x06] => self.network = Some(NetworkHeader::Arp),
            [0x81, 0x00] | [0x88, 0xa8] => self.vlan = true,
            _ => {}
        }
    }
}
