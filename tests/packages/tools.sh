# Sourced: helm, kubectl, the schemas and the linters, from Python's and npm's registries.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need python3=python3 npm=npm unzip=unzip
tools=$work/tools
if [ ! -e "$tools/.complete-$(sha256sum "$here/requirements.txt" | cut -c1-16)" ]; then
	rm -rf "$tools"
	/usr/bin/python3 -m venv "$tools" 2>/dev/null || python3 -m venv "$tools"
	"$tools/bin/pip" install -q --disable-pip-version-check $(grep -v '^aws-cdk' "$here/requirements.txt")
	# A wheel with helm and kubectl in a layer of AWS's, in an npm package.
	"$tools/bin/pip" download -q --disable-pip-version-check --no-deps -d "$tools/wheel" $(grep '^aws-cdk' "$here/requirements.txt")
	(
		cd "$tools/wheel"
		unzip -qo ./*.whl
		tar -xzf ./*/*/_jsii/*.tgz
		unzip -qo "$(find package -name layer.zip)" 'helm/helm' 'kubectl/kubectl'
		install helm/helm kubectl/kubectl "$tools/bin/"
	)
	rm -rf "$tools/wheel"
	mkdir -p "$tools/npm"
	(cd "$tools/npm" && npm init -y >/dev/null && npm install --silent --no-fund --no-audit @kubernetes-models/prometheus-operator@6.0.0)
	touch "$tools/.complete-$(sha256sum "$here/requirements.txt" | cut -c1-16)"
fi
export PATH=$tools/bin:$PATH
