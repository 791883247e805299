//! Rules become a program: a search tree over ranges of numbers with equal verdicts.

use std::collections::BTreeMap;

use super::abi::{ABIS, Abi};
use super::{Action, Condition, Filter, Relation, Rule};

/// What a call gets whose number is beyond those that the rules know: programs then
/// fall back to an older call, where EPERM would make them fail.
const UNKNOWN: Action = Action::Errno(libc::ENOSYS as u16);

/// Offsets in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

/// Compiles rules; of several for one call, the first whose conditions hold decides.
pub fn compile<Name: AsRef<str>>(default: Action, rules: &[Rule<'_, Name>]) -> Filter {
    compile_for(|_| true, default, UNKNOWN, rules)
}

/// The same for the native architecture, and of the other ones that this processor runs those that
/// `wanted` says, by their names in libseccomp: on all others every call kills. `unknown` is for calls
/// beyond those that this program knows.
pub fn compile_for<Name: AsRef<str>>(
    wanted: impl Fn(&str) -> bool,
    default: Action,
    unknown: Action,
    rules: &[Rule<'_, Name>],
) -> Filter {
    let mut program = vec![load(OFFSET_ARCH)];
    for (_, abi) in ABIS.iter().enumerate().filter(|(n, abi)| *n == 0 || wanted(abi.name)) {
        let body = Body::new(abi, default, unknown, rules).code();
        // Longer than a conditional jump reaches: jump over it by an unconditional one.
        program.push(jump(libc::BPF_JEQ, abi.audit, 1, 0));
        program.push(statement(libc::BPF_JMP | libc::BPF_JA, body.len() as u32));
        program.extend(body);
    }
    program.push(verdict(Action::Kill));
    Filter(program)
}

type Code = Vec<libc::sock_filter>;

/// The decisions of one ABI: what begins at which number. What is done there is a piece of
/// code that may serve many numbers; most are a single return.
struct Body {
    leaves: Vec<(u32, usize)>,
    pieces: Vec<Code>,
}

impl Body {
    fn new<Name: AsRef<str>>(
        abi: &Abi,
        default: Action,
        unknown: Action,
        rules: &[Rule<'_, Name>],
    ) -> Self {
        let mut by_number: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, rule) in rules.iter().enumerate() {
            for number in rule.names.iter().filter_map(|name| (abi.number)(name.as_ref())) {
                by_number.entry(number).or_default().push(index);
            }
        }
        let mut body = Self { leaves: Vec::new(), pieces: Vec::new() };
        let mut next = 0;
        for (number, indices) in by_number {
            if number > next || number == 0 {
                body.begin(next, vec![verdict(default)]);
            }
            body.begin(number, leaf(default, rules, &indices));
            next = number + 1;
        }
        body.begin(next, vec![verdict(default)]);
        body.begin(abi.end.max(next), vec![verdict(unknown)]);
        body
    }

    /// From `number` on, this is done; nothing changes where it was done already.
    fn begin(&mut self, number: u32, code: Code) {
        let piece = match self.pieces.iter().position(|p| same(p, &code)) {
            Some(piece) => piece,
            None => {
                self.pieces.push(code);
                self.pieces.len() - 1
            }
        };
        if self.leaves.last().is_some_and(|(first, _)| *first == number) {
            self.leaves.pop();
        }
        if self.leaves.last().is_none_or(|(_, before)| *before != piece) {
            self.leaves.push((number, piece));
        }
    }

    /// A binary search, then the pieces, each once. Where a conditional jump does not reach
    /// its piece, the search ends in an unconditional one.
    fn code(&self) -> Code {
        let mut tree = Vec::new();
        self.search(&self.leaves, &mut tree);
        let mut starts = Vec::new();
        let mut end = tree.len();
        for piece in &self.pieces {
            starts.push(end);
            end += piece.len();
        }
        let mut code = vec![load(OFFSET_NUMBER)];
        for (at, node) in tree.iter().enumerate() {
            let distance = |target: Target| match target {
                Target::Node(node) => node - at - 1,
                Target::Piece(piece) => starts[piece] - at - 1,
            };
            code.push(match *node {
                Node::Test { number, yes, no } => {
                    match (u8::try_from(distance(yes)), u8::try_from(distance(no))) {
                        (Ok(yes), Ok(no)) => jump(libc::BPF_JGE, number, yes, no),
                        // The tree is laid out so that only pieces can be far: see `search`.
                        _ => return self.long_code(),
                    }
                }
                Node::Go(target) => {
                    statement(libc::BPF_JMP | libc::BPF_JA, distance(target) as u32)
                }
            });
        }
        code.extend(self.pieces.iter().flatten());
        code
    }

    /// The subtree over some leaves: where it begins.
    fn search(&self, leaves: &[(u32, usize)], tree: &mut Vec<Node>) -> Target {
        if let [(_, piece)] = leaves {
            if tree.is_empty() {
                tree.push(Node::Go(Target::Piece(*piece)));
            }
            return Target::Piece(*piece);
        }
        let at = tree.len();
        let (low, high) = leaves.split_at(leaves.len() / 2);
        let number = high.first().map_or(0, |(first, _)| *first);
        tree.push(Node::Go(Target::Node(at)));
        let no = self.search(low, tree);
        let yes = self.search(high, tree);
        tree[at] = Node::Test { number, yes, no };
        Target::Node(at)
    }

    /// A chain of tests with a copy of each piece: for profiles so large that a jump
    /// over the tree would not reach.
    fn long_code(&self) -> Code {
        let mut code = vec![load(OFFSET_NUMBER)];
        for (index, (_, piece)) in self.leaves.iter().enumerate() {
            let piece = &self.pieces[*piece];
            if let Some((next, _)) = self.leaves.get(index + 1) {
                code.push(jump(libc::BPF_JGE, *next, 0, 1));
                code.push(statement(libc::BPF_JMP | libc::BPF_JA, piece.len() as u32));
            }
            code.extend(piece);
        }
        code
    }
}

#[derive(Clone, Copy)]
enum Target {
    Node(usize),
    Piece(usize),
}

#[derive(Clone, Copy)]
enum Node {
    /// Whether the call's number is at least this.
    Test {
        number: u32,
        yes: Target,
        no: Target,
    },
    Go(Target),
}

fn same(a: &Code, b: &Code) -> bool {
    let key = |i: &libc::sock_filter| (i.code, i.jt, i.jf, i.k);
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| key(a) == key(b))
}

fn leaf<Name>(default: Action, rules: &[Rule<'_, Name>], indices: &[usize]) -> Code {
    let mut code = Vec::new();
    for index in indices {
        let rule = &rules[*index];
        if rule.conditions.is_empty() {
            code.push(verdict(rule.action));
            return code;
        }
        code.extend(conditional(rule.conditions, rule.action));
    }
    code.push(verdict(default));
    code
}

/// Code that returns the action where all conditions hold and else falls through.
fn conditional(conditions: &[Condition], action: Action) -> Code {
    let mut code = vec![verdict(action)];
    for condition in conditions.iter().rev() {
        let rest = code.len() as u8;
        let offset = OFFSET_ARGUMENTS + 8 * u32::from(condition.argument);
        let not = match condition.relation {
            Relation::Equal => false,
            Relation::NotEqual => true,
            _ => {
                let mut test = ordered(condition, offset, rest);
                test.extend(code);
                code = test;
                continue;
            }
        };
        // Both targets of this architecture family are little-endian: the low half comes first.
        let halves = [
            (offset, condition.mask as u32, condition.value as u32),
            (offset + 4, (condition.mask >> 32) as u32, (condition.value >> 32) as u32),
        ];
        let mut test = Vec::new();
        for (nth, (offset, mask, value)) in halves.into_iter().enumerate() {
            // From the first test, the second one's three instructions lie before the rest.
            let after = if nth == 0 { 3 } else { 0 };
            let (equal, differ) = match (not, nth) {
                (false, _) => (0, after + rest),
                (true, 0) => (0, after),
                (true, _) => (rest, 0),
            };
            test.push(load(offset));
            test.push(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask));
            test.push(jump(libc::BPF_JEQ, value, equal, differ));
        }
        test.extend(code);
        code = test;
    }
    code
}

/// Falls through where the argument is greater or less, and else jumps over the `rest`.
fn ordered(condition: &Condition, offset: u32, rest: u8) -> Code {
    use Relation::{Greater, Less, LessOrEqual};
    let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
    // Less is not greater or equal.
    let opposite = matches!(condition.relation, Less | LessOrEqual);
    let strict = matches!(condition.relation, Greater | LessOrEqual);
    let test = if strict { libc::BPF_JGT } else { libc::BPF_JGE };
    let (greater, smaller) = if opposite { (3 + rest, 2) } else { (3, 2 + rest) };
    let (yes, no) = if opposite { (rest, 0) } else { (0, rest) };
    vec![
        load(offset + 4),
        jump(libc::BPF_JGT, high, greater, 0),
        jump(libc::BPF_JEQ, high, 0, smaller),
        load(offset),
        jump(test, low, yes, no),
    ]
}

fn verdict(action: Action) -> libc::sock_filter {
    let value = match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        Action::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::Trap => libc::SECCOMP_RET_TRAP,
        Action::Trace(number) => libc::SECCOMP_RET_TRACE | u32::from(number),
        Action::Log => libc::SECCOMP_RET_LOG,
        Action::Notify => libc::SECCOMP_RET_USER_NOTIF,
    };
    statement(libc::BPF_RET | libc::BPF_K, value)
}

fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | test | libc::BPF_K) as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's interpreter for what [`compile`] emits (linux/filter.h).
    fn run(filter: &Filter, arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend([0; 8]);
        arguments.iter().for_each(|a| data.extend(a.to_le_bytes()));
        let (mut at, mut a) = (0, 0u32);
        loop {
            let i = &filter.0[at];
            at += 1;
            let code = u32::from(i.code);
            let jump = |holds: bool| usize::from(if holds { i.jt } else { i.jf });
            match code {
                c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    let k = i.k as usize;
                    a = u32::from_le_bytes(data[k..k + 4].try_into().unwrap());
                }
                c if c == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => a &= i.k,
                c if c == libc::BPF_JMP | libc::BPF_JA => at += i.k as usize,
                c if c == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => at += jump(a == i.k),
                c if c == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => at += jump(a >= i.k),
                c if c == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => at += jump(a > i.k),
                c if c == libc::BPF_RET | libc::BPF_K => return i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn native(filter: &Filter, name: &str, arguments: [u64; 6]) -> u32 {
        run(filter, ABIS[0].audit, (ABIS[0].number)(name).unwrap(), arguments)
    }

    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    #[test]
    fn every_number_gets_its_verdict() {
        let names = ["read", "write", "clone", "getpid", "openat2", "mq_open"];
        let filter = compile(
            Action::Errno(libc::EPERM as u16),
            &[Rule { names: &names, action: Action::Allow, conditions: &[] }],
        );
        for abi in &ABIS {
            let allowed: Vec<u32> = names.iter().filter_map(|n| (abi.number)(n)).collect();
            for number in 0..abi.end {
                let wanted = if allowed.contains(&number) { ALLOW } else { EPERM };
                assert_eq!(run(&filter, abi.audit, number, [0; 6]), wanted, "{number}");
            }
            let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
            for number in [abi.end, abi.end + 1, 0x4000_0000, u32::MAX] {
                assert_eq!(run(&filter, abi.audit, number, [0; 6]), unknown, "{number}");
            }
        }
        assert_eq!(run(&filter, 1, 0, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn a_profile_too_large_for_a_tree_means_the_same() {
        // Every other call gets an errno of its own, so nothing can be joined.
        let names: Vec<&str> = syscalls::x86_64::Sysno::iter().map(|n| n.name()).collect();
        let rules: Vec<_> = (names.chunks(1).enumerate())
            .map(|(n, names)| {
                let action = Action::Errno(1 + n as u16);
                Rule { names, action, conditions: &[] }
            })
            .collect();
        let filter = compile(Action::Allow, &rules);
        for (n, name) in names.iter().enumerate() {
            let wanted = libc::SECCOMP_RET_ERRNO | (1 + n as u32);
            assert_eq!(native(&filter, name, [0; 6]), wanted, "{name}");
        }
        assert!(filter.0.len() < 4096);
    }

    #[test]
    fn conditions_look_at_all_64_bits() {
        let condition =
            |relation| Condition { argument: 1, mask: !0, value: 0x1_0000_0002, relation };
        for not in [false, true] {
            let conditions = [condition(if not { Relation::NotEqual } else { Relation::Equal })];
            let filter = compile(
                Action::Errno(libc::EPERM as u16),
                &[Rule { names: &["read"], action: Action::Allow, conditions: &conditions }],
            );
            for (value, equal) in
                [(0x1_0000_0002, true), (2, false), (0x1_0000_0000, false), (0x2_0000_0002, false)]
            {
                let wanted = if equal != not { ALLOW } else { EPERM };
                assert_eq!(native(&filter, "read", [0, value, 0, 0, 0, 0]), wanted, "{value:x}");
            }
        }
    }

    #[test]
    fn greater_and_less_look_at_all_64_bits() {
        use Relation::{Greater, GreaterOrEqual, Less, LessOrEqual};
        let value = 0x1_0000_0002;
        for relation in [Greater, GreaterOrEqual, Less, LessOrEqual] {
            let conditions = [
                Condition { argument: 1, mask: !0, value, relation },
                Condition { argument: 0, mask: !0, value: 7, relation: Relation::Equal },
            ];
            let filter = compile(
                Action::Errno(libc::EPERM as u16),
                &[Rule { names: &["read"], action: Action::Allow, conditions: &conditions }],
            );
            for got in [0, 1, 3, value - 1, value, value + 1, 0x2_0000_0000, u64::MAX] {
                let holds = match relation {
                    Greater => got > value,
                    GreaterOrEqual => got >= value,
                    Less => got < value,
                    _ => got <= value,
                };
                let wanted = if holds { ALLOW } else { EPERM };
                assert_eq!(native(&filter, "read", [7, got, 0, 0, 0, 0]), wanted, "{got:x}");
                assert_eq!(native(&filter, "read", [8, got, 0, 0, 0, 0]), EPERM);
            }
        }
    }

    #[test]
    fn all_conditions_must_hold_and_the_first_rule_wins() {
        let equal =
            |argument, value| Condition { argument, mask: 0xff, value, relation: Relation::Equal };
        let both = [equal(0, 1), equal(2, 3)];
        let rules = [
            Rule { names: &["socket"], action: Action::Errno(97), conditions: &both },
            Rule { names: &["socket"], action: Action::Allow, conditions: &[] },
        ];
        let filter = compile(Action::Kill, &rules);
        let errno = libc::SECCOMP_RET_ERRNO | 97;
        assert_eq!(native(&filter, "socket", [1, 0, 3, 0, 0, 0]), errno);
        assert_eq!(native(&filter, "socket", [0x101, 0, 0x203, 0, 0, 0]), errno);
        assert_eq!(native(&filter, "socket", [1, 0, 4, 0, 0, 0]), ALLOW);
        assert_eq!(native(&filter, "socket", [2, 0, 3, 0, 0, 0]), ALLOW);
    }
}
