# Packages of pacman and a repository of them, made by makepkg and repo-add, which want not to be root.
useradd -m builder 2>/dev/null || adduser --disabled-password --gecos '' builder
mkdir -p /srv/build
chown -R builder /srv/build
mkdir -p /var/lib/pacman/local /var/cache/pacman/pkg /etc/pacman.d
sed -i 's/^CheckSpace/#CheckSpace/; s/^#*SigLevel.*//' /etc/pacman.conf
# Made with the first transaction of an installation.
pacman -Dk >/dev/null 2>&1 || true
echo 9 > /var/lib/pacman/local/ALPM_DB_VERSION

# build NAME VERSION [LINE OF THE PKGBUILD] [FILE]
build() {
    file=${4:-/usr/share/$1/version}
    mkdir -p "/srv/build/$1-$2"
    cat > "/srv/build/$1-$2/PKGBUILD" <<PKGBUILD
pkgname=$1
pkgver=$2
pkgrel=1
pkgdesc=$1
arch=(any)
options=('!strip')
${3:-}
package() {
    mkdir -p "\$pkgdir$(dirname "$file")"
    echo $1 $2 > "\$pkgdir$file"
}
PKGBUILD
    chown -R builder "/srv/build/$1-$2"
    (cd "/srv/build/$1-$2" && setpriv --reuid=builder --regid=builder --clear-groups env HOME=/home/builder PKGEXT=.pkg.tar.zst makepkg --nodeps --force >/dev/null 2>/srv/build/said) || { cat /srv/build/said >&2; false; } || { echo "makepkg of $1 failed" >&2; return 1; }
    cp "/srv/build/$1-$2/"*.pkg.tar.zst /srv/files/
}

sign() {
    who=$1
    shift
    for file in "$@"; do
        gpg --batch --quiet --local-user "$who@example.org" --detach-sign --no-armor "$file"
    done
}

# The system itself.
build base 1.0
pacman --noconfirm -U /srv/files/base-*.zst >/dev/null
rm /srv/files/base-*.zst
build web 1.0 'depends=(lib)'
build lib 1.0
build broken 1.0 'depends=(nowhere)'
build clash 1.0 '' /usr/share/lib/version
build foreign 1.0
build tampered 1.0
cp /srv/files/*.pkg.tar.zst /srv/repo/
build web 2.0 'depends=(lib)'
cd /srv/repo
sign mini web-* lib-* broken-* clash-* tampered-*
sign stranger foreign-*
repo-add --quiet mini.db.tar.gz *.pkg.tar.zst >/dev/null
# Changed after it was signed and listed.
for file in /srv/repo/tampered-*.zst; do
    printf 'XXXX' | dd of="$file" bs=1 seek=$(($(stat -c %s "$file") - 8)) conv=notrunc status=none
    cp "$file" "$file.sig" /srv/files/
done
cat > /srv/release.sh <<'SH'
cd /srv/repo
cp /srv/files/web-2.0* .
gpg --homedir /srv/gnupg --batch --quiet --local-user mini@example.org --detach-sign --no-armor web-2.0*.zst
repo-add --quiet mini.db.tar.gz web-2.0*.zst >/dev/null
SH
cd /
rm -rf /var/lib/dpkg /usr/bin/apt* /usr/bin/dpkg*
