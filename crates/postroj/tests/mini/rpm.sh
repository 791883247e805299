# RPM packages and repositories of them. Debian's rpm keeps its database in the home directory.
mkdir -p /etc/rpm /srv/build
printf '%%_dbpath /var/lib/rpm\n%%_gpg_name mini\n%%__gpg /usr/bin/gpg\n' > /etc/rpm/macros
rpm --initdb

built=/srv/build/RPMS/noarch

# build NAME VERSION [LINE OF THE SPEC] [FILE]
build() {
    file=${4:-/usr/share/$1/version}
    cat > "/srv/build/$1.spec" <<SPEC
Name: $1
Version: $2
Release: 1
Summary: $1
License: MIT
BuildArch: noarch
AutoReqProv: no
${3:-}
%description
$1
%install
mkdir -p %{buildroot}$(dirname "$file")
echo $1 $2 > %{buildroot}$file
%files
$file
SPEC
    rpmbuild -bb --quiet --define '_topdir /srv/build' "/srv/build/$1.spec" >/dev/null
}

# The system itself.
build base 1.0
rpm -U --force-debian $built/base-*.rpm
rm $built/base-*.rpm
build web 1.0 'Requires: lib'
build lib 1.0
build broken 1.0 'Requires: nowhere'
build clash 1.0 '' /usr/share/lib/version
rpm --addsign $built/*.rpm >/dev/null
cp $built/*.rpm /srv/files/
cp $built/*.rpm /srv/repo/

# The next version of one, as a file and in a repository that is added by an upgrade.
rm $built/*.rpm
build web 2.0 'Requires: lib'
rpm --addsign $built/web-2.0*.rpm >/dev/null
cp $built/web-2.0*.rpm /srv/files/

# Signed by a key that the system does not know.
rm $built/*.rpm
build foreign 1.0
rpm --addsign --define '_gpg_name stranger' $built/foreign*.rpm >/dev/null
cp $built/foreign*.rpm /srv/files/

# Changed after it was signed and listed.
rm $built/*.rpm
build tampered 1.0
rpm --addsign $built/tampered*.rpm >/dev/null
cp $built/*.rpm /srv/repo/
cp /srv/files/foreign*.rpm /srv/repo/
cat > /srv/publish.sh <<'SH'
set -e
# It would rename the directory, which overlayfs does not do with one of a lower layer.
rm -rf /srv/repo/repodata
createrepo_c --quiet /srv/repo
# Others than dnf check the list's signature first.
gpg --homedir /srv/gnupg --batch --quiet --yes --local-user mini@example.org --armor --detach-sign /srv/repo/repodata/repomd.xml
cp /srv/mini.asc /srv/repo/repodata/repomd.xml.key
SH
sh /srv/publish.sh
size=$(stat -c %s /srv/repo/tampered-1.0-1.noarch.rpm)
printf 'XXXX' | dd of=/srv/repo/tampered-1.0-1.noarch.rpm bs=1 seek=$((size - 20)) conv=notrunc status=none
cp /srv/repo/tampered-1.0-1.noarch.rpm /srv/files/
cat > /srv/release.sh <<'SH'
cp /srv/files/web-2.0* /srv/repo/
sh /srv/publish.sh
SH
rm -rf /var/lib/dpkg /usr/bin/apt* /usr/bin/dpkg*
