"""The standard library works: one real use of each module that needs neither threads nor processes."""
# ruff: noqa: E501 - a table: one module, one line

from typing import Any

import pytest

from sandbox import Outcome
from tests.contract.conftest import Run

USES: dict[str, tuple[str, Any]] = {
    "abc": ("class A(abc.ABC):\n    @abc.abstractmethod\n    def f(self): ...\nabc.ABC in A.__mro__", True),
    "argparse": ("p = argparse.ArgumentParser()\np.add_argument('--n', type=int)\np.parse_args(['--n', '5']).n", 5),
    "array": ("array.array('i', [1, 2]).tolist()", [1, 2]),
    "ast": ("ast.literal_eval('[1, (2,)]')", [1, [2]]),
    "base64": ("base64.b64encode(b'hello').decode()", "aGVsbG8="),
    "binascii": ("binascii.hexlify(b'a').decode()", "61"),
    "bisect": ("bisect.bisect([1, 3, 5], 4)", 2),
    "bz2": ("bz2.decompress(bz2.compress(b'x' * 99)).decode()", "x" * 99),
    "calendar": ("calendar.monthrange(2024, 2)", [3, 29]),
    "cmath": ("cmath.sqrt(-4).imag", 2.0),
    "codecs": ("codecs.encode('abc', 'rot13')", "nop"),
    "collections": ("collections.Counter('aab').most_common(1)", [["a", 2]]),
    "colorsys": ("colorsys.rgb_to_hsv(1, 0, 0)", [0.0, 1.0, 1]),
    "configparser": ("c = configparser.ConfigParser()\nc.read_string('[a]\\nb = 1')\nc.getint('a', 'b')", 1),
    "contextlib": ("with contextlib.suppress(ValueError): int('x')\n5", 5),
    "contextvars": ("v = contextvars.ContextVar('v', default=3)\nv.get()", 3),
    "copy": ("copy.deepcopy([[1]])", [[1]]),
    "csv": ("import io\nlist(csv.DictReader(io.StringIO('a,b\\n1,\"x,y\"')))", [{"a": "1", "b": "x,y"}]),
    "dataclasses": ("@dataclasses.dataclass\nclass P:\n    x: int\ndataclasses.asdict(P(1))", {"x": 1}),
    "datetime": ("(datetime.datetime(2024, 2, 28) + datetime.timedelta(days=2)).isoformat()", "2024-03-01T00:00:00"),
    "decimal": ("str(decimal.Decimal('0.1') + decimal.Decimal('0.2'))", "0.3"),
    "difflib": ("difflib.get_close_matches('appel', ['ape', 'apple'])[0]", "apple"),
    "dis": ("len(list(dis.get_instructions('x = 1'))) > 2", True),
    "email": ("import email.message\nm = email.message.EmailMessage()\nm['To'] = 'a@b.c'\nm.set_content('hi')\nm.get_content()", "hi\n"),
    "enum": ("class C(enum.Enum):\n    A = 1\nC(1).name", "A"),
    "errno": ("errno.errorcode[errno.ENOENT]", "ENOENT"),
    "fileinput": ("open('f', 'w').write('a\\nb\\n')\nlist(fileinput.input('f'))", ["a\n", "b\n"]),
    "filecmp": ("open('f', 'w').write('a')\nopen('g', 'w').write('a')\nfilecmp.cmp('f', 'g', shallow=False)", True),
    "fnmatch": ("fnmatch.filter(['a.py', 'b.c'], '*.py')", ["a.py"]),
    "fractions": ("str(fractions.Fraction(1, 3) + fractions.Fraction(1, 6))", "1/2"),
    "functools": ("functools.reduce(lambda a, b: a * b, [2, 3, 4])", 24),
    "gc": ("gc.collect() >= 0", True),
    "getpass": ("callable(getpass.getpass)", True),
    "gettext": ("gettext.gettext('hello')", "hello"),
    "glob": ("open('a.txt', 'w').close()\nglob.glob('*.txt')", ["a.txt"]),
    "graphlib": ("list(graphlib.TopologicalSorter({'b': {'a'}}).static_order())", ["a", "b"]),
    "gzip": ("gzip.decompress(gzip.compress(b'zip')).decode()", "zip"),
    "hashlib": ("hashlib.sha256(b'').hexdigest()[:8]", "e3b0c442"),
    "heapq": ("heapq.nsmallest(2, [3, 1, 2])", [1, 2]),
    "hmac": ("hmac.new(b'k', b'm', 'sha256').hexdigest()[:8]", "b60090e3"),
    "html": ("html.escape('<a>')", "&lt;a&gt;"),
    "html.parser": ("class P(html.parser.HTMLParser):\n    def handle_data(self, data): seen.append(data)\nseen = []\nP().feed('<b>x</b>')\nseen", ["x"]),
    "http": ("http.HTTPStatus(404).phrase", "Not Found"),
    "importlib": ("importlib.import_module('json').dumps([1])", "[1]"),
    "importlib.resources": ("importlib.resources.files('tzdata').joinpath('zones').is_file()", True),
    "inspect": ("def f(a, b=1): pass\nstr(inspect.signature(f))", "(a, b=1)"),
    "io": ("io.StringIO('a\\nb').readlines()", ["a\n", "b"]),
    "ipaddress": ("ipaddress.ip_network('10.0.0.0/30').num_addresses", 4),
    "itertools": ("list(itertools.accumulate([1, 2, 3]))", [1, 3, 6]),
    "json": ("json.loads('{\"a\": [1, 2.5, null]}')", {"a": [1, 2.5, None]}),
    "keyword": ("keyword.iskeyword('for')", True),
    "linecache": ("open('f', 'w').write('one\\ntwo\\n')\nlinecache.getline('f', 2)", "two\n"),
    "locale": ("locale.getlocale() is not None", True),
    "logging": ("logging.getLogger('a').getEffectiveLevel()", 30),
    "lzma": ("lzma.decompress(lzma.compress(b'x')).decode()", "x"),
    "math": ("[math.gcd(12, 18), math.comb(5, 2), math.isclose(math.e, 2.718281828)]", [6, 10, True]),
    "mimetypes": ("mimetypes.guess_type('a.png')[0]", "image/png"),
    "numbers": ("isinstance(1, numbers.Integral)", True),
    "operator": ("operator.itemgetter(1)([4, 5])", 5),
    "os": ("os.path.join('a', 'b')", "a/b"),
    "pathlib": ("p = pathlib.Path('d/e.txt')\np.parent.mkdir()\np.write_text('x')\nstr(next(pathlib.Path('.').rglob('*.txt')))", "d/e.txt"),
    "pickle": ("pickle.loads(pickle.dumps({'a': {1}})) == {'a': {1}}", True),
    "platform": ("platform.python_implementation()", "CPython"),
    "plistlib": ("plistlib.loads(plistlib.dumps({'a': 1}))", {"a": 1}),
    "pprint": ("pprint.pformat({'b': 1, 'a': 2})", "{'a': 2, 'b': 1}"),
    "queue": ("q = queue.Queue()\nq.put(1)\nq.get(timeout=1)", 1),
    "quopri": ("quopri.encodestring('ä'.encode()).decode()", "=C3=A4"),
    "random": ("random.Random(1).randrange(100)", 17),
    "re": ("re.sub(r'(\\w+) (\\w+)', r'\\2 \\1', 'a b')", "b a"),
    "reprlib": ("reprlib.repr('x' * 100)[:3]", "'xx"),
    "sched": ("s = sched.scheduler()\nseen = []\ns.enter(0.01, 1, seen.append, (5,))\ns.run()\nseen", [5]),
    "secrets": ("len(secrets.token_hex(8))", 16),
    "selectors": ("selectors.SelectSelector().select(0.01)", []),
    "shelve": ("with shelve.open('s') as s:\n    s['a'] = [1]\nwith shelve.open('s') as s:\n    __out = s['a']", [1]),
    "shlex": ("shlex.split('a \"b c\"')", ["a", "b c"]),
    "shutil": ("open('a', 'w').write('x')\nshutil.copy('a', 'b')\nopen('b').read()", "x"),
    "signal": ("signal.Signals(9).name", "SIGKILL"),
    "sqlite3": ("d = sqlite3.connect('d.db')\nd.execute('create table t (a)')\nd.execute('insert into t values (7)')\nd.commit()\nd.execute('select a from t').fetchone()", [7]),
    "stat": ("stat.filemode(0o100644)", "-rw-r--r--"),
    "statistics": ("statistics.median([1, 9, 3])", 3),
    "string": ("string.Template('$a!').substitute(a=1)", "1!"),
    "stringprep": ("stringprep.in_table_a1('a')", False),
    "struct": ("struct.unpack('<I', b'\\x01\\0\\0\\0')", [1]),
    "symtable": ("symtable.symtable('x = 1', 'f', 'exec').get_symbols()[0].get_name()", "x"),
    "sys": ("sys.byteorder", "little"),
    "tarfile": ("open('a', 'w').write('x')\nwith tarfile.open('t.tar.gz', 'w:gz') as t: t.add('a')\ntarfile.open('t.tar.gz').getnames()", ["a"]),
    "tempfile": ("with tempfile.TemporaryFile() as f:\n    f.write(b'x')\n    f.seek(0)\n    __out = f.read().decode()", "x"),
    "textwrap": ("textwrap.fill('a b c', 3)", "a b\nc"),
    "threading": ("with threading.Lock(): __out = threading.current_thread() is threading.main_thread()", True),
    "time": ("time.strftime('%Y', time.gmtime(0))", "1970"),
    "timeit": ("timeit.timeit('1', number=1) >= 0", True),
    "token": ("token.tok_name[1]", "NAME"),
    "tokenize": ("import io\n[t.string for t in tokenize.generate_tokens(io.StringIO('a+1').readline)][:3]", ["a", "+", "1"]),
    "tomllib": ("tomllib.loads('[a]\\nb = [1]')", {"a": {"b": [1]}}),
    "traceback": ("try: 1 / 0\nexcept Exception: __out = 'line 2' in traceback.format_exc()", True),
    "types": ("types.SimpleNamespace(a=1).a", 1),
    "typing": ("typing.get_args(typing.Optional[int])[0] is int", True),
    "unicodedata": ("unicodedata.normalize('NFC', 'a\\u0308')", "ä"),
    "unittest": ("import unittest.mock\nm = unittest.mock.Mock(return_value=3)\nm()", 3),
    "urllib.parse": ("urllib.parse.urlencode({'a': 'b c'})", "a=b+c"),
    "uuid": ("str(uuid.uuid5(uuid.NAMESPACE_DNS, 'example.org'))[:8]", "aad03681"),
    "warnings": ("with warnings.catch_warnings(record=True) as w:\n    warnings.simplefilter('always')\n    warnings.warn('x')\n    __out = len(w)", 1),
    "weakref": ("class A: pass\na = A()\nr = weakref.ref(a)\nr() is a", True),
    "xml.etree.ElementTree": ("xml.etree.ElementTree.fromstring('<a><b>1</b></a>').find('b').text", "1"),
    "xml.dom.minidom": ("xml.dom.minidom.parseString('<a/>').documentElement.tagName", "a"),
    "zipfile": ("with zipfile.ZipFile('z.zip', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('a', 'x')\nzipfile.ZipFile('z.zip').read('a').decode()", "x"),
    "zlib": ("zlib.crc32(b'a')", 3904355907),
    "zoneinfo": ("import datetime\ndatetime.datetime(2024, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin')).isoformat()", "2024-07-01T12:00:00+02:00"),
}  # fmt: skip


# One guest tries them all, each in a folder of its own, as a snippet would: starting a guest for each takes minutes.
TRY_ALL = f"""
import ast, os, traceback
found = {{}}
for number, (module, code) in enumerate({[(module, code) for module, (code, _) in USES.items()]!r}):
    os.makedirs(f"use{{number}}")
    os.chdir(f"use{{number}}")
    try:
        names = {{"__name__": "__main__"}}
        body = ast.parse(f"import {{module}}\\n{{code}}").body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "use", "exec"), names)
        value = names.get("__out") if last is None else eval(compile(ast.Expression(last.value), "use", "eval"), names)
        found[module] = [value, None]
    except BaseException:
        found[module] = [None, traceback.format_exc()]
    os.chdir("..")
found
"""

_tried: dict[str, dict[str, Any]] = {}


@pytest.fixture
def tried(run: Run, backend: str) -> dict[str, Any]:
    """What each module gave on this backend: [value, None], or [None, traceback]."""
    if backend not in _tried:
        result = run(TRY_ALL, limits={"wall_seconds": 50})
        assert (result.outcome, result.stderr) == (Outcome.COMPLETED, ""), result.summary()
        _tried[backend] = result.value
    return _tried[backend]


@pytest.mark.parametrize("module", USES)
def test_the_module_works(tried: dict[str, Any], module: str) -> None:
    value, failure = tried[module]
    assert failure is None, failure
    assert value == USES[module][1]


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", "Australia/Sydney", "UTC"])
def test_time_zones_are_there(run: Run, zone: str) -> None:
    result = run(f"import zoneinfo\n[str(zoneinfo.ZoneInfo('{zone}')), len(zoneinfo.available_timezones()) > 400]")
    assert result.value == [zone, True]


def test_the_clock_is_the_hosts(run: Run) -> None:
    result = run("import datetime, time\n[time.time(), datetime.datetime.now(datetime.timezone.utc).year]")
    assert result.value[1] >= 2024
    assert abs(result.value[0] - run("import time\ntime.time()").value) < 60
