# Two signing keys: the repository's own, and that of somebody whom nobody knows.
export GNUPGHOME=/srv/gnupg
mkdir -m 700 -p $GNUPGHOME /srv/repo /srv/files
for who in mini stranger; do
    gpg --batch --quiet --passphrase '' --quick-gen-key "$who <$who@example.org>" rsa2048 sign never
    gpg --armor --export "$who@example.org" > "/srv/$who.asc"
done
