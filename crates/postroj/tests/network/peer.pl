# What the tests run on either side of a network: perl-base is on every Debian.
use strict; use warnings; use IO::Socket::IP; use IO::Select; $| = 1; $SIG{PIPE} = 'IGNORE';
my ($do, @args) = @ARGV;
sub connected { IO::Socket::IP->new(PeerHost => $_[0], PeerPort => $_[1], Timeout => 20) }
sub slurp { my $s = shift; local $/; my $all = <$s>; defined $all ? $all : '' }
# Sends much; what says that this is all is the end of its half, or a line's end.
if ($do eq 'tcp') {
    my ($host, $port, $size, $line) = @args; my $s = connected($host, $port) or die "connect: $@\n";
    my $block = 'x' x $size; print $s $block; $line ? print $s "\n" : $s->shutdown(1); $s->flush; print slurp($s);
}
elsif ($do eq 'udp') {
    my ($host, $port) = @args;
    my $s = IO::Socket::IP->new(PeerHost => $host, PeerPort => $port, Proto => 'udp') or die "$@\n";
    # Datagrams may be lost while neighbours are looked for.
    for (1 .. 20) {
        $s->send("hello"); next unless IO::Select->new($s)->can_read(1);
        my $text; defined $s->recv($text, 2000) or next; print $text; exit 0;
    }
    die "no answer\n";
}
# All open at once, then a byte each.
elsif ($do eq 'many') {
    my ($host, $port, $count) = @args; my @all;
    for (1 .. $count) { my $s = connected($host, $port) or die "connection $_: $@\n"; push @all, $s }
    for (@all) { print $_ "\n"; $_->flush }
    my $good = 0; for (@all) { $good++ if slurp($_) =~ /^1 from / } print "$good\n";
}
# By a socket that is bound to an interface (socket(7), SO_BINDTODEVICE).
elsif ($do eq 'bound') {
    my ($host, $port, $device) = @args;
    socket(my $s, Socket::AF_INET, Socket::SOCK_STREAM, 0) or die "$!\n";
    setsockopt($s, 1, 25, $device . "\0") or die "bind to $device: $!\n";
    connect($s, Socket::pack_sockaddr_in($port, Socket::inet_aton($host))) or die "connect: $!\n";
    syswrite($s, "\n"); print slurp($s);
}
elsif ($do eq 'resolve') { my $a = gethostbyname($args[0]); print defined $a ? Socket::inet_ntoa($a) . "\n" : "unknown\n" }
elsif ($do eq 'get') { my $s = connected(@args) or die "connect: $@\n"; print $s "GET / HTTP/1.0\r\n\r\n"; print((split /\r\n\r\n/, slurp($s), 2)[1]) }
# A resolver that knows one name's address only (RFC 1035): for each question for an A record.
elsif ($do eq 'names') {
    my ($name, $address) = @args; my $known = join('', map { chr(length) . $_ } split /\./, $name) . "\0";
    my $u = IO::Socket::IP->new(LocalHost => '0.0.0.0', LocalPort => 53, Proto => 'udp') or die "udp: $@\n"; print "serving\n";
    while (defined(my $from = $u->recv(my $q, 2000))) {
        my $question = substr($q, 12, index($q, "\0", 12) + 5 - 12); my $is = lc(substr($question, 0, -4)) eq $known;
        my $data = $is && substr($question, -4, 2) eq "\0\1" ? "\xc0\x0c\0\1\0\1\0\0\0\1\0\4" . Socket::inet_aton($address) : '';
        $u->send(substr($q, 0, 2) . ($is ? "\x81\x80" : "\x81\x83") . pack('n4', 1, $data ? 1 : 0, 0, 0) . $question . $data, 0, $from);
    }
}
# Answers how much came, and from where; `after` seconds late.
elsif ($do eq 'serve') {
    my ($port, $after) = @args; sleep($after // 0);
    my $t = IO::Socket::IP->new(LocalHost => '::', LocalPort => $port, Listen => 4096, V6Only => 0, ReuseAddr => 1) or die "tcp: $@\n";
    my $u = IO::Socket::IP->new(LocalHost => '::', LocalPort => $port, Proto => 'udp', V6Only => 0) or die "udp: $@\n";
    my $select = IO::Select->new($t, $u); my %got; print "serving\n";
    while (my @ready = $select->can_read) {
        for my $s (@ready) {
            if ($s == $t) { my $c = $t->accept or next; $select->add($c); $got{$c} = 0 }
            elsif ($s == $u) { my $from = $u->recv(my $text, 2000) // next; $u->send(length($text) . " from " . $u->peerhost . "\n", 0, $from) }
            else {
                my $n = sysread($s, my $text, 65536);
                if ($n) { $got{$s} += $n; next if $text !~ /\n\z/ }
                syswrite($s, "$got{$s} from " . ($s->peerhost // '?') . "\n"); $select->remove($s); delete $got{$s}; close $s;
            }
        }
    }
}
