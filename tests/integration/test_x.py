async def test_one(boot, write):
    """x"""
    host = await boot()
    m = await host.load_path(write("a", "export function f(...a) { return a; }\nexport {f as default}"))
    assert await m.call("f", 1, 2) == [1, 2]
async def test_two(boot, write):
    """x"""
    host = await boot()
async def test_three(boot, write):
    """x"""
    host = await boot()
    m = await host.load_path(write("a", "export function f(...a) { return a; }"))
    n = await host.load_path(write("b", "export function f(...a) { return a; }"))
    assert await m.call("f", 1, 2) == [1, 2]
