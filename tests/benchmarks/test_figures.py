"""A figure's floor and goal are compared with its ratio, or with the figure itself where it has none."""

from benchmarks.figures import Figure, at_least, at_most, of_pairs


def test_a_figure_without_a_ratio_is_compared_itself():
    figure = Figure("calls", "calls", 30).with_targets(at_most(60), at_most(25))

    assert figure.is_met
    assert not figure.reaches_goal


def test_the_median_of_the_pairs_ratios_is_compared():
    figure = of_pairs("pace", "records/s", [(10, 10), (10, 20), (20, 60)])

    assert figure.ratio == 2
    assert figure.with_targets(at_least(2), at_least(3)).is_met
    assert not figure.with_targets(at_least(2), at_least(3)).reaches_goal


def test_json_names_floor_goal_and_whether_they_are_met():
    content = Figure("calls", "calls", 20).with_targets(at_most(60), at_most(25)).as_dict("calls")

    assert (content["target"], content["goal"]) == ("at most 60", "at most 25")
    assert (content["met"], content["reaches_goal"]) == (True, True)
