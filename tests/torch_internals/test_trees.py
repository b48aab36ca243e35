def test_leaves_in_order(surface):
    tree = {"b": [1, (2, None)], "a": 3}
    assert surface.tree_leaves(tree) == [1, 2, None, 3]
    flat, spec = surface.tree_flatten(tree)
    assert surface.tree_unflatten([10 * (leaf or 0) for leaf in flat], spec) == {"b": [10, (20, 0)], "a": 30}
    assert surface.tree_map(str, [1, {"k": 2}]) == ["1", {"k": "2"}]
    assert surface.tree_map_only(int, str, [1, 2.5]) == ["1", 2.5]


def test_paths_are_those_of_the_containers(surface):
    first, _ = surface.tree_flatten_with_path({"x": [5, 6]})[0]
    path, leaf = first
    assert leaf == 5
    assert path[0].key == "x"
    assert path[1].idx == 0
