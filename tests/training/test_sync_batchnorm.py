from types import SimpleNamespace

import kdzoo  # noqa: F401  registers the small networks with timm
import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdengine import Registry, SettingsError
from kdengine.config.settings import Settings, TrainSettings
from kdengine.runs.session import Session
from kdengine.training.statistics import RunningStatistics
from kdengine.training.sync_batchnorm import check_sync_batchnorm, synchronise


def runtime(processes, device="cpu"):
    return SimpleNamespace(processes=processes, device=torch.device(device))


def norms(network):
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@pytest.mark.parametrize("name", ["resnet8", "efficientnet_lite0"])
def test_batch_normalisations_are_replaced_and_a_network_in_evaluation_computes_what_it_did(name):
    network, images = timm.create_model(name, num_classes=3).eval(), torch.randn(2, 3, 32, 32)
    before, names, weights = network(images), list(network.state_dict()), list(network.parameters())
    synchronise(network, runtime(1))
    assert not any(isinstance(norm, nn.SyncBatchNorm) for norm in norms(network)), "one process has the whole batch"
    synchronise(network, runtime(2))
    assert norms(network)
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms(network))
    assert torch.equal(network(images), before)
    assert list(network.state_dict()) == names
    assert all(one is other for one, other in zip(network.parameters(), weights, strict=True))


def test_statistics_that_are_shared_in_the_forward_are_not_averaged_again():
    network = nn.Sequential(nn.BatchNorm2d(2))
    synchronise(network, runtime(2))
    module = SimpleNamespace(student=network, modules=network.modules)
    averaged = []
    RunningStatistics(module, SimpleNamespace(processes=2, average=averaged.extend, take_first=averaged.extend)).share()
    assert averaged == []


def test_another_strategy_than_ddp_is_refused_with_what_makes_room_for_a_large_teacher():
    assert TrainSettings(strategy="ddp") == TrainSettings()
    with pytest.raises(SettingsError, match=r"train\.strategy = 'fsdp': it must be 'ddp'.*fold_teacher=false.*kdengine teach"):
        Settings.checked({"student": "resnet8", "train": {"strategy": "fsdp"}})


def test_processes_without_gpus_are_refused_before_anything_is_trained():
    check_sync_batchnorm(runtime(1))
    check_sync_batchnorm(runtime(2, "cuda"))
    train = {"sync_batchnorm": True, "device": "cpu"}
    settings = Settings.checked({"student": "resnet8", "data": "digits@train=64@test=32", "train": train})
    session = Session.open(settings, Registry())
    assert not any(isinstance(norm, nn.SyncBatchNorm) for norm in norms(session.lane("one", session.student(), {}).student))
    session.runtime.processes = 2
    with pytest.raises(SettingsError, match=r"train\.sync_batchnorm needs a GPU for each process.*2 processes on 'cpu'"):
        session.lane("two", session.student(), {})
