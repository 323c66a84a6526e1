//! A small mutator for inputs made of attributes, deterministic for a seed.

/// A pseudo-random generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// xorshift64*
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below this one; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end.max(1)
    }

    /// One of them; the list must not be empty.
    pub fn one_of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// An attribute; its payload is parsed as attributes if possible.
#[derive(Clone, Debug)]
enum Node {
    Leaf(u16, Vec<u8>),
    Nest(u16, Vec<Node>),
}

/// Longer inputs take longer and find nothing new.
const LONGEST: usize = 16 << 10;

/// Parses bytes as attributes; `None` if they are not.
fn parse(mut bytes: &[u8], depth: usize) -> Option<Vec<Node>> {
    let mut nodes = Vec::new();
    while let [a, b, c, d, ..] = *bytes {
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let body = bytes.get(4..length)?;
        let nest = parse(body, depth + 1).filter(|nest| depth < 12 && !nest.is_empty());
        nodes.push(nest.map_or_else(|| Node::Leaf(kind, body.to_vec()), |nest| Node::Nest(kind, nest)));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    bytes.is_empty().then_some(nodes)
}

fn write(nodes: &[Node], out: &mut Vec<u8>) {
    for node in nodes {
        let start = out.len();
        out.extend([0; 4]);
        let kind = match node {
            Node::Leaf(kind, body) => {
                out.extend(body);
                kind
            }
            Node::Nest(kind, nest) => {
                write(nest, out);
                kind
            }
        };
        let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
        out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        out[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// One of the lists of attributes, at any depth.
fn some_list<'a>(nodes: &'a mut Vec<Node>, random: &mut Random) -> &'a mut Vec<Node> {
    let nests: Vec<usize> = (0..nodes.len()).filter(|at| matches!(nodes[*at], Node::Nest(..))).collect();
    if nests.is_empty() || random.below(4) == 0 {
        return nodes;
    }
    match &mut nodes[*random.one_of(&nests)] {
        Node::Nest(_, nest) => some_list(nest, random),
        Node::Leaf(..) => unreachable!("only nests were listed"),
    }
}

/// Duplicates, drops, moves, borrows or renumbers an attribute; lengths stay right.
fn attributes(bytes: &mut Vec<u8>, header: usize, other: &[u8], random: &mut Random) {
    let Some(mut nodes) = bytes.get(header..).and_then(|bytes| parse(bytes, 0)) else { return };
    let list = some_list(&mut nodes, random);
    let at = random.below(list.len());
    match random.below(7) {
        0 if !list.is_empty() => list.insert(random.below(list.len() + 1), list[at].clone()),
        1 if !list.is_empty() => drop(list.remove(at)),
        2 if !list.is_empty() => {
            let to = random.below(list.len());
            list.swap(at, to);
        }
        3 => {
            if let Some(mut others) = other.get(header..).and_then(|bytes| parse(bytes, 0)) {
                let theirs = some_list(&mut others, random);
                if !theirs.is_empty() {
                    list.insert(random.below(list.len() + 1), random.one_of(theirs).clone());
                }
            }
        }
        4 if !list.is_empty() => {
            let number = random.below(24) as u16 | *random.one_of(&[0, 0, 0x4000, 0x8000]);
            match &mut list[at] {
                Node::Leaf(kind, _) | Node::Nest(kind, _) => *kind = number,
            }
        }
        5 if !list.is_empty() => {
            if let Node::Leaf(_, body) = &mut list[at] {
                let length = *random.one_of(&[0, 1, 2, 3, 4, 8, 16, body.len() + 1, body.len().saturating_sub(1)]);
                body.resize(length, random.next() as u8);
            }
        }
        _ if !list.is_empty() => {
            if let Node::Leaf(_, body) = &mut list[at]
                && !body.is_empty()
            {
                let place = random.below(body.len());
                body[place] = *random.one_of(&[0, 1, 2, 0x7f, 0x80, 0xff]);
            }
        }
        _ => {}
    }
    bytes.truncate(header);
    write(&nodes, bytes);
}

/// One of the seeds, mutated, perhaps with parts of another.
pub fn mutated(seeds: &[Vec<u8>], header: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = random.one_of(seeds).clone();
    for _ in 0..=random.below(4) {
        let other = random.one_of(seeds);
        let at = random.below(bytes.len());
        match random.below(10) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.next() as u8;
                }
            }
            2 => bytes.truncate(at),
            3 => bytes.extend(&other[random.below(other.len())..]),
            4 => {
                // Perhaps a length.
                let at = header + (at & !3);
                if let Some([low, high]) = bytes.get_mut(at..at + 2) {
                    let length = u16::from_ne_bytes([*low, *high]);
                    let others = [
                        0,
                        1,
                        3,
                        4,
                        5,
                        length.wrapping_add(1),
                        length.wrapping_sub(1),
                        length.wrapping_add(4),
                        u16::MAX,
                    ];
                    [*low, *high] = random.one_of(&others).to_ne_bytes();
                }
            }
            _ => attributes(&mut bytes, header, other, random),
        }
    }
    bytes.truncate(LONGEST);
    bytes
}
