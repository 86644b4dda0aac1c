from validation.cli.progress import Progress


def test_the_bar_shows_the_number_done_and_the_time_left():
    progress = Progress(4, "traced")
    assert progress.bar(0).endswith("] 0/4 traced")
    progress.step()
    assert progress.bar(30).endswith("] 1/4 traced, 1:30 left")


def test_nothing_is_written_without_a_terminal(capsys):
    progress = Progress(1, "traced")
    progress.step()
    progress.close()
    assert capsys.readouterr().err == ""
