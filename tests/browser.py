"A page in a real Chromium, driven by the DevTools protocol over a pair of pipes: clicks, keys, downloads, screenshots."
import base64, json, os, shutil, signal, subprocess, time
from pathlib import Path

CHROMIUM = next((o for o in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if o), None)
FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
         '--disable-extensions', '--disable-background-networking', '--disable-component-update',
         '--remote-debugging-pipe')
KEYS = dict(ArrowLeft=37, ArrowUp=38, ArrowRight=39, ArrowDown=40, Enter=13, Delete=46, Tab=9, Escape=27)

class Browser:
    "One window; `with Browser(folder) as b:` ends it. What it downloads lies in `downloads`"
    def __init__(self, folder, size=(1200, 2600), **media):
        self.folder,self.downloads,self.media = Path(folder),Path(folder)/'downloads',media
        self.size,self.events,self.n,self.rest = size,[],0,b''
        self.downloads.mkdir(parents=True, exist_ok=True)

    def __enter__(self):
        (to_read, self.to),(self.from_, to_write) = os.pipe(),os.pipe()
        shell = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write} 2>/dev/null >/dev/null'
        size = ','.join(map(str, self.size))
        args = [CHROMIUM, *FLAGS, f'--user-data-dir={self.folder}/profile', f'--window-size={size}', 'about:blank']
        self.process = subprocess.Popen(['bash', '-c', shell, *args], pass_fds=(to_read, to_write),
                                        start_new_session=True)
        os.close(to_read)
        os.close(to_write)
        target = next(o for o in self.send('Target.getTargets')['targetInfos'] if o['type'] == 'page')
        self.session = self.send('Target.attachToTarget', targetId=target['targetId'], flatten=True)['sessionId']
        for o in ('Page', 'Runtime', 'Log', 'Network'): self.page(f'{o}.enable')
        self.send('Browser.setDownloadBehavior', behavior='allow', downloadPath=str(self.downloads), eventsEnabled=True)
        media = [dict(name=k.replace('_', '-'), value=v) for k,v in self.media.items()]
        if media: self.page('Emulation.setEmulatedMedia', features=media)
        self.resize(*self.size)
        return self

    def __exit__(self, *exc):
        try: self.send('Browser.close')
        except (EOFError, OSError): pass
        try: self.process.wait(10)
        except subprocess.TimeoutExpired: os.killpg(self.process.pid, signal.SIGKILL)
        os.close(self.to)
        os.close(self.from_)

    def resize(self, width, height, mobile=False):
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.page('Emulation.setDeviceMetricsOverride', **size)

    def _message(self):
        while b'\0' not in self.rest:
            part = os.read(self.from_, 2**20)
            if not part: raise EOFError('Chromium has gone')
            self.rest += part
        text,_,self.rest = self.rest.partition(b'\0')
        return json.loads(text)

    def send(self, method, session=None, **params):
        self.n += 1
        message = dict(id=self.n, method=method, params=params, **({'sessionId': session} if session else {}))
        os.write(self.to, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._message()
            if answer.get('id') == self.n: break
            self.events.append(answer)
            if answer.get('method') == 'Page.javascriptDialogOpening': self._answer_dialog()
        if 'error' in answer: raise RuntimeError(f'{method}: {answer["error"]}')
        return answer['result']

    def _answer_dialog(self):
        self.n,was = self.n + 1000,self.n
        params = dict(accept=True)
        message = dict(id=self.n, method='Page.handleJavaScriptDialog', params=params, sessionId=self.session)
        os.write(self.to, json.dumps(message).encode() + b'\0')
        self.n = was

    def page(self, method, **params): return self.send(method, self.session, **params)

    def open(self, file, ready='document.getElementById("count") !== null'):
        self.page('Page.navigate', url=Path(file).resolve().as_uri())
        self.wait(f'document.readyState == "complete" && {ready}')

    def js(self, text):
        res = self.page('Runtime.evaluate', expression=text, returnByValue=True, awaitPromise=True, userGesture=True)
        if 'exceptionDetails' in res: raise RuntimeError(res['exceptionDetails'])
        return res['result'].get('value')

    def wait(self, text, seconds=20):
        end = time.monotonic() + seconds
        while not self.js(text):
            if time.monotonic() > end: raise TimeoutError(text)
            time.sleep(.02)

    def click(self, selector):
        "A click with the mouse in the middle of what is there"
        x,y = self.js(f'(o => {{const e = document.querySelector(o); e.scrollIntoView({{block: "center"}});'
                      f'const r = e.getBoundingClientRect(); return [r.x + r.width/2, r.y + r.height/2]}})'
                      f'({json.dumps(selector)})')
        for kind in ('mousePressed', 'mouseReleased'):
            self.page('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)

    def key(self, *keys):
        for key in keys:
            text = key if len(key) == 1 else '\r' if key == 'Enter' else ''
            code = dict(key=key, windowsVirtualKeyCode=KEYS.get(key, ord(key[0].upper())))
            self.page('Input.dispatchKeyEvent', type='keyDown', **code, **(dict(text=text) if text else {}))
            self.page('Input.dispatchKeyEvent', type='keyUp', **code)

    def choose(self, selector, value):
        "A value in a list or a field of the page"
        self.js(f'(o => {{o.value = {json.dumps(value)}; for (const e of ["input", "change"]) '
                f'o.dispatchEvent(new Event(e, {{bubbles: true}}))}})(document.querySelector({json.dumps(selector)}))')

    def give_file(self, selector, file):
        node = self.page('Runtime.evaluate', expression=f'document.querySelector({json.dumps(selector)})')['result']
        self.page('DOM.setFileInputFiles', files=[str(file)], objectId=node['objectId'])

    def downloaded(self, name, seconds=20):
        end,file = time.monotonic() + seconds,self.downloads/name
        while not (file.exists() and not list(self.downloads.glob('*.crdownload'))):
            if time.monotonic() > end: raise TimeoutError(f'{name} was not downloaded')
            self.js('1')
            time.sleep(.05)
        return file

    def screenshot(self, file):
        Path(file).write_bytes(base64.b64decode(self.page('Page.captureScreenshot', format='png')['data']))
        return file

    def problems(self):
        "What the page complained about, and what it tried to load"
        self.js('1')
        complaints = 'Runtime.exceptionThrown', 'Runtime.consoleAPICalled', 'Log.entryAdded'
        said = [o for o in self.events if o.get('method') in complaints]
        requests = [o['params'] for o in self.events if o.get('method') == 'Network.requestWillBeSent']
        asked = [o['request']['url'] for o in requests]
        return said + [o for o in asked if not o.startswith(('file:', 'data:', 'blob:'))]
